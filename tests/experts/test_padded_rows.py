"""As many rows for every expert: none of a neighbour's in its results, and only where it pays."""

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import kernels
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.kernels import expert_kernel
from espnet_moe_share.experts.padded_rows import PaddedRows, pad_rows

MOST = kernels.MOST_PRODUCTS


@pytest.mark.parametrize("ends", [[3, 7, 9, 12], [2, 2, 4], [5], [0, 3, 6, 8]])
def test_each_expert_has_its_own(ends: list[int]) -> None:
    rows, experts = ends[-1], len(ends)
    x = torch.randn(rows, 6)
    weight, bias = torch.randn(experts, 5, 6), torch.randn(experts, 5)
    padded = pad_rows(ends, x, weight, MOST)
    assert padded is not None
    # choices that came from places 10, 11, ...
    places = padded.places(torch.arange(10, 10 + rows))
    x_padded = x.index_select(0, places - 10)
    pieces = [x[begin:end] for begin, end in zip([0, *ends], ends)]
    torch.testing.assert_close(list(padded.split(x_padded)), pieces)
    torch.testing.assert_close(
        padded.sum(x_padded), torch.stack([one.sum(dim=0) for one in pieces])
    )
    back = torch.randperm(rows)
    for given in (bias, None):
        y = padded.linear(x_padded, weight, given).index_select(0, padded.back(back))
        expected = [
            F.linear(piece, weight[e], None if given is None else given[e])
            for e, piece in enumerate(pieces)
        ]
        torch.testing.assert_close(y, torch.cat(expected)[back])


def test_where_it_does_not_pay() -> None:
    x, weight = torch.zeros(1, 8), torch.zeros(4, 8, 8)
    assert pad_rows([2, 4, 6, 8], x, weight, 2 * 64) is not None
    assert pad_rows([2, 4, 6, 8], x, weight, 2 * 64 - 1) is None  # too many products
    assert pad_rows([4, 5, 6, 8], x, weight, MOST) is not None
    assert pad_rows([5, 6, 7, 8], x, weight, MOST) is None  # 20 rows for 8
    assert pad_rows([0, 0, 0, 0], x, weight, MOST) is None
    assert pad_rows([2, 4, 6, 8], x.bfloat16(), weight.bfloat16(), MOST) is None


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity_factor", [None, 0.75])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("most", [0, MOST])
def test_gradients_of_a_layer(
    double_precision: None,
    top_k: int,
    capacity_factor: float | None,
    padding: bool,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "MOST_PRODUCTS", most)
    taken = []
    feed_forward = kernels.feed_forward
    monkeypatch.setattr(
        kernels, "feed_forward", lambda *args: taken.append(args[4]) or feed_forward(*args)
    )
    torch.manual_seed(2)
    layer = MixtureOfExperts(
        6, 10, torch.nn.Dropout(0.0), torch.nn.SiLU(), 3, top_k, capacity_factor
    )
    torch.nn.init.normal_(layer.router.weight)
    x, gradient = torch.randn(3, 8, 6, requires_grad=True), torch.randn(3, 8, 6)
    mask = torch.arange(8) < torch.tensor([[8], [5], [7]])
    found = []
    for kernel in ("segment_mm", "loop"):
        layer.frame_mask = mask if padding else None
        with expert_kernel(kernel):
            y = layer(x)
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], gradient)])
    torch.testing.assert_close(found[0], found[1])
    assert [isinstance(rows, PaddedRows) for rows in taken] == [most > 0]
