"""The factored layer by itself."""

import pytest
import torch
from espnet2.torch_utils.initialize import initialize

from espnet_moe_share.low_rank.linear import LowRankLinear


def dense_layer(kind: str, inputs: int, outputs: int, bias: bool = True) -> torch.nn.Module:
    if kind == "linear":
        return torch.nn.Linear(inputs, outputs, bias=bias)
    return torch.nn.Conv1d(inputs, outputs, 1, bias=bias)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_dense_layer_of_its_product(
    double_precision: None, kind: str, bias: bool
) -> None:
    dense = dense_layer(kind, 5, 7, bias)
    layer = LowRankLinear(dense, 3)
    x = torch.randn(2, 5, 4) if kind == "convolution" else torch.randn(2, 4, 5)
    assert (dense.bias is None) is (not bias)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
    torch.testing.assert_close(layer(x), dense(x))
    assert torch.linalg.matrix_rank(layer.weight.flatten(1)) == 3


def test_names_and_number_of_parameters() -> None:
    dense = torch.nn.Linear(50, 70)
    layer = LowRankLinear(dense, 6)
    assert set(dict(layer.named_parameters())) == {"down.weight", "up.weight", "up.bias"}
    assert layer.up.bias is dense.bias
    assert sum(p.numel() for p in layer.parameters()) == 6 * (50 + 70) + 70


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("rank", [8, 64, 300])
@pytest.mark.parametrize("by_espnet", [False, True])
def test_variance_of_the_product_is_that_of_torchs_linear(
    kind: str, rank: int, by_espnet: bool
) -> None:
    torch.manual_seed(0)
    dense = dense_layer(kind, 400, 300)
    layer = LowRankLinear(dense, rank)
    if by_espnet:  # the normal distribution of init would make the product hundreds times smaller
        initialize(torch.nn.Sequential(layer), "normal")
        assert layer.up.bias.abs().max() == 0
    assert layer.weight.var().item() == pytest.approx(1 / (3 * 400), rel=0.08)
    assert layer.weight.var().item() == pytest.approx(dense.weight.var().item(), rel=0.08)
