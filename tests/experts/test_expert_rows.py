"""What experts multiply: none of a neighbour's in results, gradients and sums, however laid out."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts import expert_rows, kernels, onednn
from espnet_moe_share.experts.dispatch import Dispatch
from espnet_moe_share.experts.expert_rows import (
    BatchedRows,
    ExpertRows,
    RoundedRows,
    batched_rows,
    own_rows,
    rounded_rows,
    rows_for_inference,
    rows_for_training,
)
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.kernels import expert_kernel

LayOut = Callable[[list[int]], ExpertRows]
# No batch; a batch wherever one may be; what a processor with wide vectors gets, without a batch.
WAYS = {"own": ExpertRows, "batched": BatchedRows, "rounded": RoundedRows}
NEEDS_ONEDNN = pytest.mark.skipif(
    not onednn.HAS_ONEDNN, reason="torch was built without oneDNN, there is nothing to test"
)


@pytest.fixture(params=["own", "batched", pytest.param("rounded", marks=NEEDS_ONEDNN)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """All training steps within lay out rows in one way."""
    most = 10**12 if request.param == "batched" else 0
    for name in (
        "MOST_PRODUCTS",
        "MOST_PRODUCTS_IN_TRAINING",
        "_MOST_FILLING",
        "_MOST_FILLING_IN_TRAINING",
        "_MOST_ROWS",
    ):
        monkeypatch.setattr(expert_rows, name, most)
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", request.param == "rounded")
    taken: list[type] = []
    rows_for_training = kernels.rows_for_training

    def spy(*args: object) -> ExpertRows:
        rows = rows_for_training(*args)  # type: ignore[arg-type]
        taken.append(type(rows))
        return rows

    monkeypatch.setattr(kernels, "rows_for_training", spy)
    yield WAYS[request.param]
    assert set(taken) == {WAYS[request.param]}


def rows_read(rows: ExpertRows) -> list[int]:
    """Which choice every row is."""
    read: list[int] = []
    for one in rows.windows:
        assert one.row == len(read)
        read += range(one.first, one.last)
    return read


@pytest.mark.parametrize(
    ("lay_out", "dtype"),
    [
        *itertools.product(
            [own_rows, batched_rows], [torch.float32, torch.float64, torch.bfloat16]
        ),
        pytest.param(rounded_rows, torch.float32, marks=NEEDS_ONEDNN),
    ],
)
@pytest.mark.parametrize("ends", [[3, 7, 9, 12], [2, 2, 4], [5], [0, 3, 6, 8], [7, 7, 12, 24]])
def test_each_expert_has_its_own(lay_out: LayOut, dtype: torch.dtype, ends: list[int]) -> None:
    rows, choices, experts = lay_out(ends), ends[-1], len(ends)
    assert rows.is_filled_up == (len(rows_read(rows)) > choices)
    x, y = torch.randn(choices, 6, dtype=dtype), torch.randn(choices, 5, dtype=dtype)
    weight = torch.randn(experts, 5, 6, dtype=dtype)
    bias = torch.randn(experts, 5, dtype=dtype)
    read = torch.tensor(rows_read(rows))
    x_P, y_P = x[read], y[read]
    pieces = [slice(begin, end) for begin, end in zip([0, *ends], ends)]
    for given in (bias, None):
        product = rows.linear(x_P, weight, given)
        for e, one in enumerate(rows.windows):
            first = one.row + one.begin - one.first
            found = product[first : first + one.end - one.begin]
            expected = F.linear(
                x[one.begin : one.end],
                weight[e],
                None if given is None else given[e],
            )
            torch.testing.assert_close(found, expected)
    rows.zero_filling_(y_P)
    torch.testing.assert_close(
        rows.sum(y_P), torch.stack([y[piece].sum(dim=0) for piece in pieces])
    )
    out = torch.full((experts, 5, 6), 9.0, dtype=dtype)
    rows.write_products(y_P, x_P, out)
    torch.testing.assert_close(out, torch.stack([y[piece].t() @ x[piece] for piece in pieces]))


@pytest.mark.parametrize("ends", [[3, 3, 8], [0, 5, 5], [0, 0, 0]])
def test_sums_of_rows_in_any_order_in_memory(ends: list[int]) -> None:
    rows = own_rows(ends)
    for x in (
        torch.randn(ends[-1], 4),
        torch.randn(4, ends[-1]).t(),
        torch.randn(4).expand(ends[-1], 4),
    ):
        pieces = x.split(rows.sizes)
        torch.testing.assert_close(rows.sum(x), torch.stack([one.sum(dim=0) for one in pieces]))


def test_what_a_neighbour_holds_does_not_matter() -> None:
    x, ends = torch.randn(24, 128), [7, 12, 24]
    x[:7], x[12:] = torch.nan, torch.inf
    weights = torch.randn(3, 512, 128)
    for lay_out in (own_rows, batched_rows, *([rounded_rows] if onednn.HAS_ONEDNN else [])):
        rows = lay_out(ends)
        y = rows.linear(x[rows_read(rows)], weights)
        row, first, _, begin, end = rows.windows[1]
        own = y[row + begin - first : row + end - first]
        torch.testing.assert_close(own, F.linear(x[7:12], weights[1]))


def test_where_a_batch_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(expert_rows, "MOST_PRODUCTS_IN_TRAINING", 3 * 64)
    monkeypatch.setattr(expert_rows, "_MOST_FILLING_IN_TRAINING", 64)
    x, weight = torch.zeros(1, 8), torch.zeros(4, 8, 8)

    def is_batch(ends: list[int], x: torch.Tensor = x, weight: torch.Tensor = weight) -> bool:
        return isinstance(rows_for_training(ends, x, weight), BatchedRows)

    assert is_batch([2, 4, 6, 8])
    assert is_batch([3, 5, 6, 8])  # 12 rows for 8: one more for the mean expert
    assert not is_batch([3, 5, 6, 7])
    assert not is_batch([4, 8, 12, 16])  # too many products
    assert not is_batch([0, 0, 0, 0])
    assert not is_batch([2, 4, 6, 8], x.bfloat16(), weight.bfloat16())
    # three experts for two threads, one of which waits as long as an expert takes
    monkeypatch.setattr(expert_rows, "MOST_PRODUCTS_IN_TRAINING", 4 * 64)
    assert is_batch([3, 6, 9], weight=weight[:3])
    assert not is_batch([4, 8, 12], weight=weight[:3])
    monkeypatch.setattr(expert_rows, "_MOST_FILLING_IN_TRAINING", 64_000)
    assert is_batch([3, 4, 5, 6])
    assert not is_batch([3, 3, 4, 5])  # 12 rows for 5


def test_what_inference_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "HAS_WIDE_VECTORS", False)
    for name, value in (("MOST_PRODUCTS", 3 * 64), ("LARGE_PRODUCTS", 100 * 64)):
        monkeypatch.setattr(expert_rows, name, value)

    def taken(ends: list[int], can_be_packed: bool, threads: int = 2) -> type:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return type(
            rows_for_inference(ends, torch.zeros(1, 8), torch.zeros(4, 8, 8), can_be_packed)
        )

    assert taken([2, 4, 6, 8], True) is taken([2, 4, 6, 8], False) is BatchedRows
    # one thread does not wait for others
    assert taken([2, 4, 6, 8], True, threads=1) is RoundedRows
    assert taken([2, 4, 6, 8], False, threads=1) is BatchedRows
    # too many rows, or too uneven
    for ends in ([4, 8, 12, 16], [3, 3, 3, 3]):
        assert taken(ends, True) is RoundedRows
        assert taken(ends, False) is ExpertRows
    assert taken([0, 0, 0, 0], True) is ExpertRows
    # 99.5 and 100.5 rows of a mean expert
    assert taken([398, 398, 398, 398], True) is RoundedRows
    assert taken([402, 402, 402, 402], True) is ExpertRows
    # too large a matrix
    monkeypatch.setattr(expert_rows, "MOST_NUMBERS", 63)
    assert taken([2, 4, 6, 8], True) is RoundedRows
    assert taken([2, 4, 6, 8], False) is BatchedRows


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


@pytest.mark.parametrize("activation", [torch.nn.SiLU(), torch.nn.ReLU()])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("frames", [37, 370])  # planned by lists and by tensors
def test_gradients_are_those_of_plain_autograd(
    way: type, top_k: int, activation: torch.nn.Module, frames: int
) -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(0.0), activation, 4, top_k)
    torch.nn.init.normal_(layer.router.weight)
    x, gradient = torch.randn(2, frames, 128), torch.randn(2, frames, 128)
    found, expected = (gradients(layer, kernel, x, gradient) for kernel in ("segment_mm", "loop"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_an_activation_that_the_kernel_does_not_know() -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(128, 512, torch.nn.Dropout(0.0), torch.nn.Tanh(), 4, 1)
    x, gradient = torch.randn(2, 37, 128), torch.randn(2, 37, 128)
    found, expected = (gradients(layer, kernel, x, gradient) for kernel in ("segment_mm", "loop"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_with_dropout(way: type, rate: float, training: bool) -> None:
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


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity_factor", [None, 0.75])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("few", [0, 1000])
def test_gradients_of_a_layer_exactly(
    double_precision: None,
    top_k: int,
    capacity_factor: float | None,
    padding: bool,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("espnet_moe_share.experts.dispatch.FEW_CHOICES", few)
    monkeypatch.setattr(expert_rows, "_MOST_ROWS", 10)
    taken: list[Dispatch] = []
    feed_forward = kernels.feed_forward
    monkeypatch.setattr(
        kernels, "feed_forward", lambda *args: taken.append(args[3]) or feed_forward(*args)
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
    assert [type(dispatch.rows) for dispatch in taken] == [BatchedRows]
    assert taken[0].rows is not None
    assert taken[0].rows.is_filled_up or capacity_factor is not None
