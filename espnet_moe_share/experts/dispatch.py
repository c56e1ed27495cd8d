"""Frames to their experts and back, with one sort.

Letters beside the package's: R rows of the layer's input (B * T, padding included), S choices that
are computed (N * K without those dropped), in the order of their experts, P rows that experts
multiply (:mod:`.expert_rows`). A place is the r * K + k of the k-th choice of the frame in row r.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import torch

from espnet_moe_share.experts.expert_rows import ExpertRows
from espnet_moe_share.experts.frames import Frames, read, restore

# As many choices are sorted in Python, whose lines take less time than operators of torch that have
# left the caches since the last layer (benchmarks/README.md, what was tried).
FEW_CHOICES = 256


@dataclass(slots=True)
class Choices:
    """What the router chose, and what of it is to be computed.

    Attributes:
        expert_ids_NK: Chosen experts (N, K).
        gates_NK: Their gates (N, K).
        num_experts: E.
        dropped_NK: True on choices that are not to be computed (N, K); None: all are.
        frames: Where the frames are among the rows; None: N = R, every row is one.
    """

    expert_ids_NK: torch.Tensor
    gates_NK: torch.Tensor
    num_experts: int
    dropped_NK: torch.Tensor | None
    frames: Frames | None


@dataclass(slots=True)
class Dispatch:
    """Which frame goes to which expert.

    Attributes:
        frames: Where the frames are; None: every row is one.
        places_P: The place that every row to multiply is read from.
        back_RK: The row of every place's result (R * K,); 0 where there is none.
        missing: Places where there is none; None: each has one.
        top_k: K.
        ends_E: Expert e's choices end before this one, where those of e + 1 begin; int64. None
            where ``rows`` has them.
        rows: What the experts multiply; None: their choices, P = S.
    """

    frames: Frames | None
    places_P: torch.Tensor
    back_RK: torch.Tensor
    missing: torch.Tensor | None
    top_k: int
    ends_E: torch.Tensor | None
    rows: ExpertRows | None

    def sources(self) -> torch.Tensor:
        """Return the row r of the input that every row to multiply is read from (P,)."""
        if self.top_k == 1:
            return self.places_P
        return self.places_P.div(self.top_k, rounding_mode="floor")

    def gather(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the input of every choice (S, D); for rows that are not filled up."""
        if self.top_k > 1:
            # a frame's gradient is then the sum over its choices, always in the same order
            x_RD = x_RD.unsqueeze(1).expand(-1, self.top_k, -1).flatten(0, 1)
        return read(x_RD, self.places_P, self.back_RK, self.missing)

    def gates(self, gates_NK: torch.Tensor) -> torch.Tensor:
        """Return the gates of all rows (R, K), zero on padding."""
        return gates_NK if self.frames is None else self.frames.put(gates_NK)

    def combine(self, y_PD: torch.Tensor, gates_NK: torch.Tensor) -> torch.Tensor:
        """Add up the outputs of each frame's choices, weighted by their gates.

        Args:
            y_PD: Outputs (P, D); with gradient only of :meth:`gather`'s rows, P = S.
            gates_NK: Gates of the choices (N, K).

        Returns:
            (R, D), zero on padding and for frames whose choices were all dropped.
        """
        y = restore(y_PD, self.places_P, self.back_RK, self.missing)
        return weigh_choices(y, self.gates(gates_NK).to(y.dtype))


def add_choices(y: torch.Tensor, top_k: int) -> torch.Tensor:
    """Add up the rows (R * K, D) of each frame: (R, D), in the same order always."""
    return y if top_k == 1 else y.unflatten(0, (-1, top_k)).sum(dim=1)


def weigh_choices(y: torch.Tensor, gates_RK: torch.Tensor) -> torch.Tensor:
    """Add up the rows (R * K, D) of each frame, weighted by gates (R, K): (R, D)."""
    return add_choices(y * gates_RK.reshape(-1, 1), gates_RK.size(1))


def plan_dispatch(
    choices: Choices, lay_out: Callable[[list[int]], ExpertRows] | None = None
) -> Dispatch:
    """Sort the choices by expert, within an expert by frame.

    Waits for a GPU only where choices are dropped or rows laid out.

    Args:
        choices: Who chose whom.
        lay_out: Makes of the places where each expert's choices end what experts multiply; None:
            they multiply their choices.
    """
    expert_ids_NK, num_experts = choices.expert_ids_NK, choices.num_experts
    frames, dropped_NK = choices.frames, choices.dropped_NK
    num_frames, top_k = expert_ids_NK.shape
    num_places = top_k * (num_frames if frames is None else frames.num_rows)
    if (
        lay_out is not None
        and dropped_NK is None
        and 0 < num_places <= FEW_CHOICES
        and expert_ids_NK.device.type == "cpu"
        and not torch.compiler.is_compiling()
    ):
        return _plan_few(expert_ids_NK, num_experts, frames, num_places, lay_out)
    expert_ids = expert_ids_NK.flatten()
    if dropped_NK is not None:
        expert_ids = expert_ids.masked_fill(dropped_NK.flatten(), num_experts)  # to the end
    sorted_ids, choices_S = expert_ids.sort(stable=True)
    experts_E = torch.arange(num_experts, device=sorted_ids.device)
    # not bincount, which waits for a GPU
    ends_E = torch.searchsorted(sorted_ids, experts_E, right=True)
    if dropped_NK is not None:
        choices_S = choices_S[: int(ends_E[-1])]
    places_S = choices_S
    if frames is not None:
        places_S = frames.rows_N[choices_S] if top_k == 1 else _by_row(choices_S, frames, top_k)
    positions_S = torch.arange(places_S.numel(), device=places_S.device)
    places_P, rows = places_S, None
    if lay_out is not None:
        rows = lay_out(ends_E.tolist())
        if rows.is_filled_up:
            places_P = torch.cat([places_S[one.first : one.last] for one in rows.windows])
            shifts = [one.row - one.first for one in rows.windows]
            shifts_E = torch.tensor(shifts, device=places_S.device)
            positions_S += shifts_E.index_select(0, sorted_ids[: places_S.numel()])
    back_RK = places_S.new_zeros(num_places).index_copy_(0, places_S, positions_S)
    missing = _padding(frames, top_k) if dropped_NK is None else _not_among(places_S, num_places)
    return Dispatch(frames, places_P, back_RK, missing, top_k, ends_E, rows)


def _plan_few(
    expert_ids_NK: torch.Tensor,
    num_experts: int,
    frames: Frames | None,
    num_places: int,
    lay_out: Callable[[list[int]], ExpertRows],
) -> Dispatch:
    top_k = expert_ids_NK.size(1)
    places = range(num_places) if frames is None else frames.list_of_places(top_k)
    by_expert: list[list[int]] = [[] for _ in range(num_experts)]
    for place, expert in zip(places, expert_ids_NK.flatten().tolist()):
        by_expert[expert].append(place)
    places_S: list[int] = []
    ends = []
    for chosen in by_expert:
        places_S += chosen
        ends.append(len(places_S))
    rows = lay_out(ends)
    places_P: list[int] = []
    back_RK = [0] * num_places
    for row, first, last, begin, end in rows.windows:
        row += begin - first
        for place in places_S[begin:end]:
            back_RK[place] = row
            row += 1
        places_P += places_S[first:last]
    # torch.tensor would take eight times as long
    ways = torch.frombuffer(array("q", places_P + back_RK), dtype=torch.int64)
    way_P, way_RK = ways.split([len(places_P), num_places])
    return Dispatch(frames, way_P, way_RK, _padding(frames, top_k), top_k, None, rows)


def _by_row(choices_S: torch.Tensor, frames: Frames, top_k: int) -> torch.Tensor:
    frames_S = choices_S.div(top_k, rounding_mode="floor")
    return frames.rows_N[frames_S] * top_k + choices_S % top_k


def _not_among(places_S: torch.Tensor, num_places: int) -> torch.Tensor:
    others = places_S.new_ones(num_places, dtype=torch.bool).index_fill_(0, places_S, False)
    return others.nonzero().squeeze(1)


def _padding(frames: Frames | None, top_k: int) -> torch.Tensor | None:
    if frames is None:
        return None
    if top_k == 1:
        return frames.padding
    choices = torch.arange(top_k, device=frames.padding.device)
    return (frames.padding.unsqueeze(1) * top_k + choices).flatten()
