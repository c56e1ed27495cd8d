"""Rows for oneDNN: in few different numbers, and never with another result."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import few_rows, packed_weights
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.few_rows import (
    few_rows_linear,
    onednn_linear,
    rounded_segment,
    segment_to_multiply,
)
from espnet_moe_share.experts.kernels import expert_kernel

WEIGHT = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))  # 2^16 numbers


@pytest.mark.parametrize("size", [1, 5, 70, 3000])
def test_the_segment_is_in_it(size: int) -> None:
    ends = {0, 1, size // 3, size // 2, size - 1, size}
    for begin in ends:
        for end in ends:
            if begin < end:
                first, last = rounded_segment(begin, end, size)
                assert 0 <= first <= begin < end <= last <= size
                assert last - first <= max(1.07 * (end - begin), end - begin + 3)
                assert rounded_segment(first, last, size) == (first, last)


def test_few_numbers_of_rows_are_made_of_many() -> None:
    segments = [rounded_segment(7, 7 + rows, 4096) for rows in range(1, 2049)]
    assert len({last - first for first, last in segments}) < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_of_a_segment(dtype: torch.dtype) -> None:
    x, weight = torch.randn(24, 128, dtype=dtype), WEIGHT.to(dtype)
    x[:7], x[12:] = torch.nan, torch.inf  # what a neighbour holds does not matter
    for bias in (None, torch.randn(512, dtype=dtype)):
        y = few_rows_linear(x, 7, 12, weight, bias)
        torch.testing.assert_close(y, F.linear(x[7:12], weight, bias))
    assert few_rows_linear(x, 7, 7, weight).shape == (0, 512)
    assert segment_to_multiply(x.double(), 7, 12, WEIGHT.double()) == (7, 12)


@pytest.mark.parametrize("pass_", ["training step", "inference"])
@pytest.mark.parametrize(("size", "hidden_units", "least"), [(128, 512, 40), (96, 288, 700)])
def test_a_layer_over_many_inputs(
    pass_: str, size: int, hidden_units: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not few_rows.HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    met = set()

    def spy(x: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        met.add((x.size(0), *weight.shape))
        return onednn_linear(x, weight, *others)

    for module in (few_rows, packed_weights):
        monkeypatch.setattr(module, "onednn_linear", spy)
    torch.manual_seed(0)
    training = pass_ == "training step"
    dropout, activation = torch.nn.Dropout(0.0), torch.nn.ReLU()
    layer = MixtureOfExperts(size, hidden_units, dropout, activation, 4, 1).train(training)
    for frames in range(least, least + 200):
        with torch.set_grad_enabled(training):
            y = layer(torch.randn(1, frames, size, requires_grad=training))
        if training:
            y.sum().backward()
    assert {shape[1:] for shape in met} == {(hidden_units, size), (size, hidden_units)}
    assert len(met) < 2 * 32


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_are_those_of_plain_autograd(top_k: int) -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(0.0), torch.nn.SiLU(), 4, top_k)
    torch.nn.init.normal_(layer.router.weight)
    x, gradient = torch.randn(2, 37, 128), torch.randn(2, 37, 128)
    found = []
    for kernel in ("loop", "segment_mm"):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        with expert_kernel(kernel):
            y = layer(inputs)
            y.backward(gradient)
        gradients = [parameter.grad for parameter in layer.parameters()]
        found.append([y, inputs.grad, *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
