"""Counted parameters against a closed formula."""

import pytest
import torch
from tiny_models import EXPERTS, MELS, SHARING, encoder

from espnet_moe_share.parameters import count_parameters


def expected_layers(
    size: int, hidden: int, kernel: int, heads: int, layers: int, groups: int, num_experts: int
) -> int:
    """Encoder layers of the main system: blocks shared in groups, norms and routers not."""
    dense = 2 * size * hidden + hidden + size
    attention = 4 * (size * size + size) + size * size + 2 * size  # q k v out, position, biases u v
    convolution = (2 * size * size + 2 * size) + (size * kernel + size) + (size * size + size)
    individual = 5 * 2 * size + 2 * size + num_experts * size  # LayerNorms, batch norm, router
    assert size % heads == 0
    block = num_experts * dense + dense + attention + convolution
    return groups * block + layers * individual


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("num_experts", [1, 4])
def test_encoder_layers(groups: int, num_experts: int) -> None:
    model = torch.nn.Module()
    model.encoder = encoder(
        output_size=16,
        linear_units=24,
        cnn_module_kernel=5,
        experts={**EXPERTS, "num_experts": num_experts},
        sharing=[{**SHARING[0], "groups": groups}],
    )
    model.other = torch.nn.Linear(3, 5)
    layers = expected_layers(16, 24, 5, 2, 4, groups, num_experts)
    rest = (MELS * 16 + 16) + 2 * 16 + 2 * 16  # embed linear with its norm, and the final norm
    assert count_parameters(model) == {
        "encoder_layer_params": layers,
        "encoder_params": layers + rest,
        "total_params": layers + rest + 20,
    }


def test_model_without_an_encoder() -> None:
    assert count_parameters(torch.nn.Linear(2, 3)) == {
        "encoder_layer_params": 0,
        "encoder_params": 0,
        "total_params": 9,
    }
