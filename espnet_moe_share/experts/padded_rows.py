"""Rows of the experts where each gets few: as many for every one, for one batched product."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from espnet_moe_share.experts.few_rows import sum_rows

# Multiplications of the busiest expert and a matrix. Above, products one by one are as quick: MKL's
# batched ones take longer than oneDNN's, but what a call costs is paid once. In training only; in
# inference oneDNN has packed weights (benchmarks/README.md, what was tried).
MOST_PRODUCTS = 7_000_000
# Rows of all experts, those that fill up included, for one choice.
_MOST_ROWS = 2


@dataclass(slots=True)
class PaddedRows:
    """Every expert's choices, and its neighbours' up to as many as the busiest expert has.

    Letters beside the package's: M rows of every expert, P rows of all (E * M).

    Attributes:
        num_experts: E.
        sources_P: Which choice each row is.
        own_S: In which row each choice is, with its own expert.
        own: First row of each expert's own, and how many they are.
        ends: Where each expert's choices end and the next one's begin; the last is S.
    """

    num_experts: int
    sources_P: torch.Tensor
    own_S: torch.Tensor
    own: list[tuple[int, int]]
    ends: Sequence[int]

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
        return sum_rows(x_PI, self.own_S, self.ends)


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
    sizes = [end - begin for begin, end in zip([0, *ends], ends)]
    rows = max(sizes)
    if rows * weight_EOI[0].numel() > most_products or not num_rows:
        return None
    if num_experts * rows > _MOST_ROWS * num_rows:
        return None
    sources: list[int] = []
    own_rows: list[int] = []
    own = []
    for number, (begin, size) in enumerate(zip([0, *ends], sizes)):
        first = min(begin, num_rows - rows)
        sources += range(first, first + rows)
        first_own = number * rows + begin - first
        own_rows += range(first_own, first_own + size)
        own.append((first_own, size))
    return PaddedRows(num_experts, torch.tensor(sources), torch.tensor(own_rows), own, ends)
