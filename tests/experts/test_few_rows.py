"""Rows for oneDNN: in few different numbers, and never with another result."""

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import few_rows, kernels, segment_mm
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.few_rows import few_rows_linear, segment_of

WEIGHT = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))  # 2^16 numbers


@pytest.mark.parametrize("size", [1, 5, 70, 3000])
def test_the_segment_is_where_it_says(size: int) -> None:
    x = torch.arange(float(size)).unsqueeze(1).expand(size, 128)
    ends = {0, 1, size // 3, size // 2, size - 1, size}
    for begin in ends:
        for end in ends:
            if begin <= end:
                rows, inside = segment_of(x, begin, end, WEIGHT)
                assert rows[inside].equal(x[begin:end])
                assert rows.size(0) <= max(1.2 * (end - begin), end - begin + 3)


def test_few_numbers_of_rows_are_made_of_many() -> None:
    x = torch.zeros(4096, 128)
    numbers = {segment_of(x, 7, 7 + rows, WEIGHT)[0].size(0) for rows in range(1, 2049)}
    assert len(numbers) < 64


def test_other_dtypes_are_not_widened() -> None:
    rows, inside = segment_of(torch.zeros(9, 128, dtype=torch.float64), 2, 5, WEIGHT.double())
    assert (rows.size(0), inside) == (3, slice(0, 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_over_many_inputs(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not few_rows._HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    met: set[tuple[int, ...]] = set()

    def spy(x: torch.Tensor, weight: torch.Tensor, *others: object) -> torch.Tensor:
        met.add((x.size(0), *weight.shape))
        return few_rows_linear(x, weight, *others)  # type: ignore[arg-type]

    for module in (kernels, segment_mm):
        monkeypatch.setattr(module, "few_rows_linear", spy)
    torch.manual_seed(0)
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(0.0), torch.nn.ReLU(), 4, 1).train(training)
    for frames in range(40, 240):
        with torch.set_grad_enabled(training):
            y = layer(torch.randn(1, frames, 128, requires_grad=training))
        if training:
            y.sum().backward()
    shapes = {shape[1:] for shape in met}
    assert shapes == {(512, 128), (128, 512)}
    assert len(met) < 2 * 32


def test_what_a_neighbour_holds_does_not_matter() -> None:
    x = torch.randn(24, 128)
    x[:7], x[12:] = torch.nan, torch.inf
    rows, inside = segment_of(x, 7, 12, WEIGHT)
    assert rows.size(0) > 5
    expected = F.linear(x[7:12], WEIGHT)
    torch.testing.assert_close(few_rows_linear(rows, WEIGHT)[inside], expected)
