"""Rows for oneDNN: in few different numbers, and never with another result."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import few_rows, kernels
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.few_rows import (
    find_segments,
    is_for_onednn,
    onednn_linear,
    rounded_segment,
)
from espnet_moe_share.experts.kernels import expert_kernel


@pytest.mark.parametrize("size", [1, 5, 70, 300, 3000])
def test_the_segment_is_in_it(size: int) -> None:
    ends = {0, 1, size // 3, size // 2, size - 1, size}
    for begin in ends:
        for end in ends:
            if begin < end:
                first, last = rounded_segment(begin, end, size)
                assert 0 <= first <= begin < end <= last <= size
                more = 3 if end - begin <= 64 else 7
                assert last - first <= max(1.07 * (end - begin), end - begin + more)
                assert rounded_segment(first, last, size) == (first, last)


def test_few_numbers_of_rows_are_made_of_many() -> None:
    segments = [rounded_segment(7, 7 + rows, 4096) for rows in range(1, 2049)]
    assert len({last - first for first, last in segments}) < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [512, 8])  # for oneDNN, and too small for it
def test_products_of_segments(dtype: torch.dtype, outputs: int) -> None:
    ends = [7, 7, 12, 24]
    x = torch.randn(24, 128, dtype=dtype)
    weights, biases = (
        torch.randn(4, outputs, 128, dtype=dtype),
        torch.randn(4, outputs, dtype=dtype),
    )
    assert is_for_onednn(len(x), x, weights) == (
        few_rows.HAS_ONEDNN and dtype == torch.float32 and outputs == 512
    )
    for given in (None, biases):
        y = find_segments(ends, x, weights).linear(x, weights, given)
        assert y.shape == (24, outputs)
        for e, (begin, end) in enumerate(zip([0, *ends], ends)):
            expected = F.linear(x[begin:end], weights[e], None if given is None else given[e])
            torch.testing.assert_close(y[begin:end], expected)
        none = find_segments([0, 0, 0, 0], x, weights)
        assert none.linear(x[:0], weights, given).shape == (0, outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ends", [[3, 3, 8], [0, 0, 5], [0, 0, 0]])
def test_sums_of_segments(dtype: torch.dtype, ends: list[int]) -> None:
    rows = ends[-1]
    one = torch.randn(4, dtype=dtype)
    for x in (
        torch.randn(rows, 4, dtype=dtype),
        torch.randn(4, rows, dtype=dtype).t(),
        one.expand(rows, 4),
    ):
        segments = find_segments(ends, x, torch.zeros(3, 8, 4, dtype=dtype))
        for _ in range(2):
            expected = torch.stack([piece.sum(dim=0) for piece in segments.split(x)])
            torch.testing.assert_close(segments.sum(x), expected)


def test_what_a_neighbour_holds_does_not_matter() -> None:
    x = torch.randn(24, 128)
    x[:7], x[12:] = torch.nan, torch.inf
    weights = torch.randn(3, 512, 128)
    y = find_segments([7, 12, 24], x, weights).linear(x, weights)
    torch.testing.assert_close(y[7:12], F.linear(x[7:12], weights[1]))


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
    if not few_rows.HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    met = set()

    def spy(x: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        met.add((x.size(0), *weight.shape))
        return onednn_linear(x, weight, *others)

    monkeypatch.setattr(few_rows, "onednn_linear", spy)
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


def gradients(
    layer: MixtureOfExperts, kernel: str, x: torch.Tensor, gradient: torch.Tensor
) -> list[torch.Tensor | None]:
    """Output and all gradients."""
    layer.zero_grad()
    inputs = x.clone().requires_grad_()
    with expert_kernel(kernel):
        y = layer(inputs)
        y.backward(gradient)
    return [y, inputs.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.fixture(params=["padded", "one by one"])
def few_or_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to multiply."""
    if request.param == "one by one":
        monkeypatch.setattr(kernels, "MOST_PRODUCTS", 0)


@pytest.mark.parametrize("activation", [torch.nn.SiLU(), torch.nn.ReLU(), torch.nn.Tanh()])
@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_are_those_of_plain_autograd(
    few_or_many: None, top_k: int, activation: torch.nn.Module
) -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(0.0), activation, 4, top_k)
    torch.nn.init.normal_(layer.router.weight)
    x, gradient = torch.randn(2, 37, 128), torch.randn(2, 37, 128)
    found, expected = (gradients(layer, kernel, x, gradient) for kernel in ("segment_mm", "loop"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_with_dropout(few_or_many: None, rate: float, training: bool) -> None:
    torch.manual_seed(0)
    # of one expert, for which the loop draws the same numbers
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(rate), torch.nn.SiLU(), 1, 1)
    layer.train(training)
    x, gradient = torch.randn(2, 37, 128), torch.randn(2, 37, 128)
    found, expected = [], []
    for kernel, kept in (("segment_mm", found), ("loop", expected)):
        torch.manual_seed(1)
        kept += gradients(layer, kernel, x, gradient)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        dense = layer.eval()(x)
    assert torch.allclose(dense, found[0], atol=1e-4) != training
