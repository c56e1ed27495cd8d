"""Rows for oneDNN: in few different numbers, and never with another result."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import expert_rows, kernels, onednn
from espnet_moe_share.experts.expert_rows import rounded_rows
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.onednn import is_for_onednn, onednn_linear, round_up

pytestmark = pytest.mark.skipif(
    not onednn.HAS_ONEDNN, reason="torch was built without oneDNN, there is nothing to test"
)


@pytest.mark.parametrize("size", [1, 5, 70, 300, 3000])
def test_own_choices_are_among_those_to_multiply(size: int) -> None:
    ends = sorted({0, 1, size // 3, size // 2, size - 1, size})
    for one in rounded_rows(ends).windows:
        rows, own = one.last - one.first, one.end - one.begin
        if own == 0:
            assert rows == 0
            continue
        assert 0 <= one.first <= one.begin < one.end <= one.last <= size
        assert rows <= max(1.07 * own, own + (3 if own <= 64 else 7))
        assert round_up(rows) == rows or rows == size


def test_few_numbers_of_rows_are_made_of_many() -> None:
    assert len({round_up(rows) for rows in range(1, 2049)}) < 100


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("rows", [8, 100])
@pytest.mark.parametrize("activation", [torch.nn.SiLU(), torch.nn.ReLU(), torch.nn.Tanh(), None])
def test_activations(
    wide: bool, rows: int, activation: torch.nn.Module | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", wide)
    x, weight, bias = torch.randn(rows, 16), torch.randn(24, 16), torch.randn(24)
    before = x.clone()
    expected = F.linear(x, weight, bias)
    if activation is not None:
        expected = activation(expected)
    with torch.no_grad():
        torch.testing.assert_close(onednn_linear(x, weight, bias, activation), expected)
    assert torch.equal(x, before)


def test_plain_matrices_are_for_it_where_it_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    x, large, small = torch.zeros(1, 128), torch.zeros(4, 512, 128), torch.zeros(4, 8, 128)
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", True)
    assert is_for_onednn(24, x, large)
    assert not is_for_onednn(0, x, large)
    assert not is_for_onednn(24, x.double(), large.double())
    assert not is_for_onednn(24, x, small)
    assert is_for_onednn(40_000, x, small)
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", False)
    assert not is_for_onednn(24, x, large)


@pytest.mark.parametrize(
    ("pass_", "size", "hidden_units", "least"),
    [
        *(("inference", 128, 512, 40), ("inference", 96, 288, 700)),
        *(("training step", 128, 512, 700), ("training step", 96, 288, 1200)),
    ],
)
def test_a_layer_over_many_inputs(
    pass_: str, size: int, hidden_units: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", True)
    monkeypatch.setattr(expert_rows, "MOST_PRODUCTS_IN_TRAINING", 7_000_000)
    monkeypatch.setattr(expert_rows, "MOST_PRODUCTS", 0)
    met = set()

    def spy(x: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        met.add((x.size(0), *weight.shape))
        return onednn_linear(x, weight, *others)

    for caller in (expert_rows, kernels):
        monkeypatch.setattr(caller, "onednn_linear", spy)
    torch.manual_seed(0)
    training = pass_ == "training step"
    dropout, activation = torch.nn.Dropout(0.0), torch.nn.ReLU()
    layer = MixtureOfExperts(size, hidden_units, dropout, activation, 4, 1).train(training)
    for frames in range(least, least + 100):
        with torch.set_grad_enabled(training):
            y = layer(torch.randn(1, frames, size, requires_grad=training))
        if training:
            y.sum().backward()
    assert {shape[1:] for shape in met} == {(hidden_units, size), (size, hidden_units)}
    assert len(met) < 2 * 32
