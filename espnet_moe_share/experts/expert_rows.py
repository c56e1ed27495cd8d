"""Which rows each expert multiplies with its matrices, and how.

Sorted by expert, the choices of an expert are consecutive. Where products of some numbers of rows
are quicker than of others, an expert gets its neighbours' choices, too, to fill up its own; what
comes of them is left out of results and gradients.

Letters beside the package's: S choices, P rows that are multiplied (the choices or, filled up,
more), M rows of every expert where all get as many; I and O width before and after a product.
"""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn import functional as F

from espnet_moe_share.experts.onednn import (
    HAS_WIDE_VECTORS,
    is_for_onednn,
    onednn_linear,
    round_up,
)

# Multiplications of the busiest expert's rows and a matrix up to which a batch of all experts is
# quicker than one after the other, in a training step and in inference. MKL's batched product gives
# every thread experts of its own, where one by one threads share each product and wait for each
# other. With wide vectors, which oneDNN uses better, it pays only where calls cost more than
# products, and not beside packed weights (benchmarks/README.md, what was tried).
MOST_PRODUCTS_IN_TRAINING, MOST_PRODUCTS = (
    (7_000_000, 0) if HAS_WIDE_VECTORS else (110_000_000, 60_000_000)
)
# What it may cost: multiplications of the rows that fill up a mean expert's and a matrix, likewise;
# and rows to multiply for one choice.
_MOST_FILLING_IN_TRAINING, _MOST_FILLING = 6_000_000, 3_500_000
_MOST_ROWS = 2

# Numbers of a matrix up to which the batch is quicker than blocks; reading larger ones takes longer
# than calls do, and blocks are read in a row.
MOST_NUMBERS = 1 << 18
# Multiplications of a mean expert's rows and a matrix from which MKL is ahead of oneDNN's blocks.
LARGE_PRODUCTS = float("inf") if HAS_WIDE_VECTORS else 100_000_000

Biases = Sequence[torch.Tensor | None]


class Window(NamedTuple):
    """Consecutive choices for an expert to multiply, with others' around its own.

    Attributes:
        row: Of the P, the first of these.
        first: Of the S choices, the first to multiply.
        last: Behind the last of them.
        begin: The first of its own.
        end: Behind the last of its own.
    """

    row: int
    first: int
    last: int
    begin: int
    end: int


class ExpertRows:
    """What every expert multiplies, one expert after the other.

    Attributes:
        windows: Of every expert; of one without choices, of no rows.
        sizes: Number of rows of every expert; together P.
    """

    def __init__(self, num_choices: int) -> None:
        self.windows: list[Window] = []
        self.sizes: list[int] = []
        self._num_rows, self._num_choices = 0, num_choices

    def add(self, rows: int, begin: int, end: int) -> None:
        """Add a window of as many rows around the choices of the next expert."""
        first = min(begin, self._num_choices - rows)
        self.windows.append(Window(self._num_rows, first, first + rows, begin, end))
        self.sizes.append(rows)
        self._num_rows += rows

    @property
    def is_filled_up(self) -> bool:
        """Whether there are rows that are not an expert's own."""
        return self._num_rows > self._num_choices

    def linear(
        self, x_PI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply each expert's rows with its matrix, without gradient.

        Args:
            x_PI: Rows (P, I).
            weight_EOI: (E, O, I), in any order in memory.
            bias_EO: (E, O).

        Returns:
            (P, O).
        """
        weights = weight_EOI.unbind()
        biases: Biases = [None] * len(weights) if bias_EO is None else bias_EO.unbind()
        pieces = zip(x_PI.split(self.sizes), weights, biases)
        return torch.cat([self._linear(*one) for one in pieces])

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def zero_filling_(self, grad_PI: torch.Tensor) -> None:
        """Set rows that fill up to zero in place, so that nothing comes of them in sums.

        A frame that is not finite, whose own expert's gradient is not either, may still make a
        neighbour's weight gradient so, as zero times it is not zero.

        Args:
            grad_PI: Gradients of rows (P, I).
        """
        if not self.is_filled_up:
            return
        filling: list[int] = []
        for row, first, last, begin, end in self.windows:
            filling += range(row, row + begin - first)
            filling += range(row + end - first, row + last - first)
        rows = torch.frombuffer(array("q", filling), dtype=torch.int64)
        grad_PI.index_fill_(0, rows.to(grad_PI.device), 0)

    def sum(self, x_PI: torch.Tensor) -> torch.Tensor:
        """Return the sum of each expert's rows (E, I), without gradient; zero of none.

        In half the time, and less, that sums one by one take (benchmarks/pieces.py).
        """
        begins = torch.tensor([window.row for window in self.windows], device=x_PI.device)
        rows_P, mode_sum = torch.arange(self._num_rows, device=x_PI.device), 0
        return torch.embedding_bag(x_PI, rows_P, begins, False, mode_sum, False)[0]

    def write_products(self, y_PO: torch.Tensor, x_PI: torch.Tensor, out_EOI: torch.Tensor) -> None:
        """Write the product y^T x of each expert's rows to its matrix; zero of none.

        Args:
            y_PO: Rows (P, O).
            x_PI: Rows (P, I).
            out_EOI: (E, O, I), each matrix by rows in memory.
        """
        on_cpu = out_EOI.device.type == "cpu"
        for y, x, out in zip(y_PO.split(self.sizes), x_PI.split(self.sizes), out_EOI.unbind()):
            # MKL writes block by block, to memory that is not in cache at half the speed
            # (benchmarks/pieces.py); zeros, in a row, bring it there.
            any_rows = x.size(0) > 0
            if on_cpu or not any_rows:
                out.zero_()
            if any_rows:
                torch.mm(y.t(), x, out=out)


class RoundedRows(ExpertRows):
    """Experts get one of few numbers of rows, for oneDNN."""

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return onednn_linear(x, weight, bias) if x.size(0) else x.new_empty(0, weight.size(0))


class BatchedRows(ExpertRows):
    """All experts get as many rows, M, for one product."""

    def _batch(self, x_PI: torch.Tensor) -> torch.Tensor:
        return x_PI.view(len(self.windows), -1, x_PI.size(1))

    def linear(
        self, x_PI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As in the base class."""
        x_EMI = self._batch(x_PI)
        if bias_EO is None:
            return torch.bmm(x_EMI, weight_EOI.mT).flatten(0, 1)
        return torch.baddbmm(bias_EO.unsqueeze(1), x_EMI, weight_EOI.mT).flatten(0, 1)

    def sum(self, x_PI: torch.Tensor) -> torch.Tensor:
        """As in the base class."""
        return self._batch(x_PI).sum(dim=1)

    def write_products(self, y_PO: torch.Tensor, x_PI: torch.Tensor, out_EOI: torch.Tensor) -> None:
        """As in the base class."""
        torch.bmm(self._batch(y_PO).mT, self._batch(x_PI), out=out_EOI)


def own_rows(ends: Sequence[int]) -> ExpertRows:
    """Give each expert its own choices.

    Args:
        ends: Where each expert's choices end and the next one's begin; the last is S.
    """
    rows = ExpertRows(ends[-1])
    for begin, end in pairwise([0, *ends]):
        rows.add(end - begin, begin, end)
    return rows


def rounded_rows(ends: Sequence[int]) -> ExpertRows:
    """Give each expert one of few numbers of rows; arguments as :func:`own_rows`."""
    rows = RoundedRows(ends[-1])
    for begin, end in pairwise([0, *ends]):
        size = min(round_up(end - begin), ends[-1]) if end > begin else 0
        rows.add(size, begin, end)
    return rows


def batched_rows(ends: Sequence[int]) -> ExpertRows:
    """Give all experts as many rows as the busiest has; arguments as :func:`own_rows`."""
    busiest = _busiest(ends)
    size = min(busiest + busiest % 2, ends[-1])  # MKL takes longer for an odd number
    rows = BatchedRows(ends[-1])
    for begin, end in pairwise([0, *ends]):
        rows.add(size, begin, end)
    return rows


def _busiest(ends: Sequence[int]) -> int:
    return max(end - begin for begin, end in pairwise([0, *ends]))


def _is_for_batch(
    ends: Sequence[int], x: torch.Tensor, weight_EOI: torch.Tensor, most: int, filling: int
) -> bool:
    num_choices, num_experts = ends[-1], len(ends)
    # nothing else was measured
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or not num_choices:
        return False
    busiest, numbers = _busiest(ends), weight_EOI.numel() // num_experts
    if busiest * numbers > most or num_experts * busiest > _MOST_ROWS * num_choices:
        return False
    threads = torch.get_num_threads()
    turns = -(-num_experts // threads) * threads  # of experts, some of which are none
    return (turns * busiest - num_choices) * numbers <= num_experts * filling


def rows_for_training(ends: Sequence[int], x: torch.Tensor, weight_EOI: torch.Tensor) -> ExpertRows:
    """Choose what was quickest in a training step (benchmarks/expert_layer.py).

    Args:
        ends: Where each expert's choices end and the next one's begin; the last is S.
        x: Rows, of any number, of the device and dtype of those to come.
        weight_EOI: Weights, likewise.
    """
    if _is_for_batch(ends, x, weight_EOI, MOST_PRODUCTS_IN_TRAINING, _MOST_FILLING_IN_TRAINING):
        return batched_rows(ends)
    return rounded_rows(ends) if is_for_onednn(ends[-1], x, weight_EOI) else own_rows(ends)


def rows_for_inference(
    ends: Sequence[int], x: torch.Tensor, weight_EOI: torch.Tensor, can_be_packed: bool
) -> ExpertRows:
    """Choose what was quickest in inference; arguments as :func:`rows_for_training`.

    Args:
        can_be_packed: Whether the weights can be brought into oneDNN's blocks.
    """
    numbers = weight_EOI.numel() // len(ends)
    threads_wait = torch.get_num_threads() > 1
    at_once = not can_be_packed or (threads_wait and numbers <= MOST_NUMBERS)
    if at_once and _is_for_batch(ends, x, weight_EOI, MOST_PRODUCTS, _MOST_FILLING):
        return batched_rows(ends)
    if is_for_onednn(ends[-1], x, weight_EOI):
        return rounded_rows(ends)
    products = ends[-1] / len(ends) * numbers
    return (rounded_rows if can_be_packed and 0 < products < LARGE_PRODUCTS else own_rows)(ends)
