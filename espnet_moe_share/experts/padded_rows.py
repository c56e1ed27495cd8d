"""Rows of the experts where each gets few: as many for every one, for one batched product."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Multiplications of the busiest expert and a matrix. Above, products one by one are as quick: MKL's
# batched ones take longer than oneDNN's, but what a call costs is paid once. In training only; in
# inference oneDNN has packed weights (benchmarks/README.md, what was tried).
MOST_PRODUCTS = 7_000_000
# Rows beside those there are, at most.
_MOST_PADDING = 2


@dataclass(slots=True)
class PaddedRows:
    """Every expert's choices, and its neighbours' up to as many as the busiest expert has.

    Letters beside the package's: M rows of every expert, P rows of all (E * M).

    Attributes:
        num_experts: E.
        sources_P: Which choice each row is.
        own_S: In which row each choice is, with its own expert.
        own: First row of each expert's own, and how many they are.
        begins: Where each expert's choices begin, and S.
    """

    num_experts: int
    sources_P: torch.Tensor
    own_S: torch.Tensor
    own: list[tuple[int, int]]
    begins: list[int]

    def places(self, places_S: torch.Tensor) -> torch.Tensor:
        """Return the place that every row is read from (P,), of those of the choices."""
        return places_S.index_select(0, self.sources_P)

    def back(self, sorted_RK: torch.Tensor) -> torch.Tensor:
        """Return the row that every place gets its result from, of the choice that it is."""
        return self.own_S.index_select(0, sorted_RK)

    def linear(
        self, x_PI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply each expert's rows (P, I) with its matrix, without gradient: (P, O)."""
        x_EMI = x_PI.view(self.num_experts, -1, x_PI.size(1))
        if bias_EO is None:
            return torch.bmm(x_EMI, weight_EOI.mT).flatten(0, 1)
        return torch.baddbmm(bias_EO.unsqueeze(1), x_EMI, weight_EOI.mT).flatten(0, 1)

    def split(self, x_PI: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return each expert's own rows."""
        return [x_PI.narrow(0, first, size) for first, size in self.own]

    def sum(self, x_PI: torch.Tensor) -> torch.Tensor:
        """Return the sum of each expert's own rows (E, I); zero of none."""
        offsets, mode_sum = torch.tensor(self.begins), 0
        found = torch.embedding_bag(x_PI, self.own_S, offsets, False, mode_sum, False, None, True)
        return found[0]


def pad_rows(
    ends: Sequence[int], x_SI: torch.Tensor, weight_EOI: torch.Tensor, most_products: int
) -> PaddedRows | None:
    """Return padded rows where they are quicker than products one by one.

    Args:
        ends: Where each expert's choices end and the next one's begin; the last is S.
        x_SI: Rows, of any number.
        weight_EOI: Weights (E, O, I).
        most_products: Rows of the busiest expert times I times O, at most.

    Returns:
        None on another device than a CPU and in half precision, where nothing was measured; with
        many or large products; with choices that are unevenly spread, or none.
    """
    if x_SI.device.type != "cpu" or x_SI.dtype not in (torch.float32, torch.float64):
        return None
    num_experts, num_rows = len(ends), ends[-1]
    begins = [0, *ends]
    sizes = [end - begin for begin, end in zip(begins, ends)]
    rows = max(sizes)
    if rows * weight_EOI[0].numel() > most_products or not num_rows:
        return None
    if num_experts * rows > _MOST_PADDING * num_rows:
        return None
    sources: list[int] = []
    own_rows: list[int] = []
    own = []
    for number, (begin, size) in enumerate(zip(begins, sizes)):
        first = min(begin, num_rows - rows)
        sources += range(first, first + rows)
        first_own = number * rows + begin - first
        own_rows += range(first_own, first_own + size)
        own.append((first_own, size))
    return PaddedRows(num_experts, torch.tensor(sources), torch.tensor(own_rows), own, begins)
