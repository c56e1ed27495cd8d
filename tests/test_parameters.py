"""Counted parameters against closed formulas."""

from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, MELS, SHARING, encoder

from espnet_moe_share.parameters import (
    count_active_parameters,
    count_parameters,
    count_reachable_parameters,
)

SIZE, HIDDEN, KERNEL, LAYERS = 16, 24, 5, 4
FEED_FORWARD = 2 * SIZE * HIDDEN + HIDDEN + SIZE
# embed linear with its norm, and the final norm
REST = (MELS * SIZE + SIZE) + 2 * SIZE + 2 * SIZE


def expected_layers(groups: int, num_experts: int, router_rows: int) -> int:
    """Encoder layers of the main system: blocks shared in groups, norms and routers not."""
    attention = 4 * (SIZE * SIZE + SIZE) + SIZE * SIZE + 2 * SIZE  # q k v out, position, u v
    convolution = 2 * SIZE * SIZE + 2 * SIZE + SIZE * KERNEL + SIZE + SIZE * SIZE + SIZE
    individual = 5 * 2 * SIZE + 2 * SIZE + router_rows * SIZE  # LayerNorms, batch norm, router
    block = num_experts * FEED_FORWARD + FEED_FORWARD + attention + convolution
    return groups * block + LAYERS * individual


def model_with(**changes: Any) -> torch.nn.Module:
    model = torch.nn.Module()
    sizes = {"output_size": SIZE, "linear_units": HIDDEN, "cnn_module_kernel": KERNEL}
    model.encoder = encoder(**{**sizes, "experts": EXPERTS, **changes})
    model.other = torch.nn.Linear(3, 5)
    return model


def all_parts(layers: int) -> dict[str, int]:
    return {
        "encoder_layer_params": layers,
        "encoder_params": layers + REST,
        "total_params": layers + REST + 20,
    }


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("num_experts", [1, 4])
def test_stored(groups: int, num_experts: int) -> None:
    experts = {**EXPERTS, "num_experts": num_experts}
    model = model_with(experts=experts, sharing=[{**SHARING[0], "groups": groups}])
    assert count_parameters(model) == all_parts(expected_layers(groups, num_experts, num_experts))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("top_k", [1, 3])
def test_active_are_all_but_the_experts_beyond_top_k_of_every_pool(groups: int, top_k: int) -> None:
    experts = {**EXPERTS, "top_k": top_k}
    model = model_with(experts=experts, sharing=[{**SHARING[0], "groups": groups}])
    assert count_active_parameters(model) == all_parts(expected_layers(groups, top_k, 4))


def test_active_without_sharing() -> None:
    model = model_with()
    assert count_active_parameters(model) == all_parts(expected_layers(LAYERS, 1, 4))


def test_all_of_a_dense_model_is_active() -> None:
    model = model_with(experts=None, sharing=[{"modules": ["self_attn"], "groups": 2}])
    assert count_active_parameters(model) == count_parameters(model)
    assert count_reachable_parameters(model) == count_parameters(model)


def test_pools_of_several_feed_forwards_and_partly_shared_experts() -> None:
    """Four layers with their own ``w_1``, ``b_1``; ``w_2``, ``b_2`` of all layers are one pool."""
    experts = {**EXPERTS, "modules": ["feed_forward", "feed_forward_macaron"]}
    shared = ["feed_forward.experts.?_2"]
    model = model_with(experts=experts, sharing=[{"modules": shared, "groups": 1}])
    stored, active = count_parameters(model), count_active_parameters(model)
    first, second = HIDDEN * SIZE + HIDDEN, SIZE * HIDDEN + SIZE
    unused = 3 * (LAYERS * first + second) + 3 * LAYERS * (first + second)
    assert {name: stored[name] - active[name] for name in stored} == dict.fromkeys(stored, unused)


@pytest.mark.parametrize(
    ("groups", "top_k", "used"),
    [(1, 1, 4), (2, 1, 2), (4, 1, 1), (2, 2, 4), (1, 3, 4)],
)
def test_reachable_experts_of_a_pool(groups: int, top_k: int, used: int) -> None:
    """As many as its layers choose together, but no more than there are."""
    experts = {**EXPERTS, "top_k": top_k}
    model = model_with(experts=experts, sharing=[{**SHARING[0], "groups": groups}])
    assert count_reachable_parameters(model) == all_parts(expected_layers(groups, used, 4))


def test_model_without_an_encoder() -> None:
    nothing = {"encoder_layer_params": 0, "encoder_params": 0, "total_params": 9}
    assert count_parameters(torch.nn.Linear(2, 3)) == nothing
    assert count_active_parameters(torch.nn.Linear(2, 3)) == nothing
