"""Frames to their experts and back, with one sort.

Letters beside the package's: R rows of the layer's input (B * T, padding included), S choices that
are computed (N * K without those dropped), in the order of their experts.

All rows are moved by reading them from where they are (``index_select``), forward and backward.
Writing them to where they belong (``index_copy``, ``index_put``, ``masked_scatter``) takes a CPU
several times as long (benchmarks/pieces.py), and adding them there is done in another order in
every run on a GPU.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

# Set on the mask that ESPnet hands from layer to layer, so that its frames are looked up, which
# waits for a GPU, once for all of them.
_ATTRIBUTE = "_espnet_moe_share_frames"
_MANY_PLACES = 1 << 10


@dataclass(frozen=True)
class Frames:
    """Which rows are frames and which are padding.

    Attributes:
        rows_N: Rows of the frames (N,), rising.
        padding: The other rows (R - N,).
        num_rows: R.
    """

    rows_N: torch.Tensor
    padding: torch.Tensor
    num_rows: int

    @cached_property
    def frames_R(self) -> torch.Tensor:
        """Number of the frame in every row (R,); 0 on padding."""
        frames_N = torch.arange(self.rows_N.numel(), device=self.rows_N.device)
        return self.rows_N.new_zeros(self.num_rows).index_copy_(0, self.rows_N, frames_N)

    def take(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the frames (N, D) among the rows (R, D)."""
        return _read(x_RD, self.rows_N, self.frames_R, self.padding)

    def put(self, y_ND: torch.Tensor) -> torch.Tensor:
        """Return rows (R, D) with the frames (N, D) in them, and zero on padding."""
        return _restore(y_ND, self.rows_N, self.frames_R, self.padding)


def find_frames(mask: torch.Tensor) -> Frames | None:
    """Look up which rows are frames.

    Args:
        mask: Bool of R elements in any shape, True on frames. It must not be changed later.

    Returns:
        None if all are.
    """
    if not hasattr(mask, _ATTRIBUTE):
        valid = mask.flatten()
        rows_N = valid.nonzero().squeeze(1)
        complete = rows_N.numel() == valid.numel()
        padding = (~valid).nonzero().squeeze(1)
        setattr(mask, _ATTRIBUTE, None if complete else Frames(rows_N, padding, valid.numel()))
    return cast(Frames | None, getattr(mask, _ATTRIBUTE))


def _read(
    x: torch.Tensor, sources: torch.Tensor, back: torch.Tensor, missing: torch.Tensor | None
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return x.index_select(0, sources)
    return cast(torch.Tensor, _Read.apply(x, sources, back, missing))


def _restore(
    y: torch.Tensor, sources: torch.Tensor, back: torch.Tensor, missing: torch.Tensor | None
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return read_or_zero(y, back, missing)
    return cast(torch.Tensor, _Restore.apply(y, sources, back, missing))


def read_or_zero(
    x: torch.Tensor, sources: torch.Tensor, missing: torch.Tensor | None
) -> torch.Tensor:
    """Return rows of ``x`` by number, and zero where one is ``missing``; without gradient."""
    if x.size(0) == 0:
        return x.new_zeros(sources.numel(), *x.shape[1:])
    y = x.index_select(0, sources)
    return y if missing is None else y.index_fill_(0, missing, 0)


def add_choices(y: torch.Tensor, top_k: int) -> torch.Tensor:
    """Add up the rows (R * K, D) of each frame: (R, D), in the same order always."""
    return y if top_k == 1 else y.unflatten(0, (-1, top_k)).sum(dim=1)


def weigh_choices(y: torch.Tensor, gates_RK: torch.Tensor) -> torch.Tensor:
    """Add up the rows (R * K, D) of each frame, weighted by gates (R, K): (R, D)."""
    return add_choices(y * gates_RK.reshape(-1, 1), gates_RK.size(1))


class _Read(torch.autograd.Function):
    """Rows by number. ``back`` says where each row of the input went; ``missing`` went nowhere."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        sources: torch.Tensor,
        back: torch.Tensor,
        missing: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(back, missing)
        return x.index_select(0, sources)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return read_or_zero(grad, *ctx.saved_tensors), None, None, None


class _Restore(torch.autograd.Function):
    """The reverse of :class:`_Read`, with the same arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        sources: torch.Tensor,
        back: torch.Tensor,
        missing: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(sources)
        return read_or_zero(y, back, missing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (sources,) = ctx.saved_tensors
        return grad.index_select(0, sources), None, None, None


@dataclass(slots=True)
class Dispatch:
    """Which frame goes to which expert.

    Attributes:
        frames: Where the frames are; None: every row is one.
        places_S: The choices by expert, within an expert by frame: r * K + k for the k-th choice
            of the frame in row r.
        sorted_RK: For each r * K + k its place in S; 0 where there is none (R * K,).
        missing: The r * K + k where there is none; None: each has one.
        ends_E: Expert e's choices end before this place in S, where those of e + 1 begin; int64.
        top_k: K.
    """

    frames: Frames | None
    places_S: torch.Tensor
    sorted_RK: torch.Tensor
    missing: torch.Tensor | None
    ends_E: torch.Tensor
    top_k: int

    def gather(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the input of every choice (S, D)."""
        if self.top_k > 1:
            # a frame's gradient is then the sum over its choices, always in the same order
            x_RD = x_RD.unsqueeze(1).expand(-1, self.top_k, -1).flatten(0, 1)
        return _read(x_RD, self.places_S, self.sorted_RK, self.missing)

    def gates(self, gates_NK: torch.Tensor) -> torch.Tensor:
        """Return the gates of all rows (R, K), zero on padding."""
        return gates_NK if self.frames is None else self.frames.put(gates_NK)

    def combine(self, y_SD: torch.Tensor, gates_NK: torch.Tensor) -> torch.Tensor:
        """Add up the outputs of each frame's choices, weighted by their gates.

        Returns:
            (R, D), zero on padding and for frames whose choices were all dropped.
        """
        y = _restore(y_SD, self.places_S, self.sorted_RK, self.missing)
        return weigh_choices(y, self.gates(gates_NK).to(y.dtype))


def plan_dispatch(
    expert_ids_NK: torch.Tensor,
    num_experts: int,
    frames: Frames | None,
    dropped_NK: torch.Tensor | None = None,
) -> Dispatch:
    """Sort the choices by expert.

    Waits for a GPU only where choices are dropped.

    Args:
        expert_ids_NK: Chosen experts (N, K).
        num_experts: E.
        frames: Where the frames are; None: N = R, every row is a frame.
        dropped_NK: True on choices that are not to be computed (N, K); None: all are.
    """
    top_k = expert_ids_NK.size(1)
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
    num_places = top_k * (expert_ids_NK.size(0) if frames is None else frames.num_rows)
    missing = _missing(frames, places_S, num_places, top_k, dropped_NK is not None)
    if missing is None and num_places < _MANY_PLACES:
        sorted_RK = places_S.argsort()  # one operator for three, but not in linear time
    else:
        positions_S = torch.arange(places_S.numel(), device=places_S.device)
        sorted_RK = places_S.new_zeros(num_places).index_copy_(0, places_S, positions_S)
    return Dispatch(frames, places_S, sorted_RK, missing, ends_E, top_k)


def _by_row(choices_S: torch.Tensor, frames: Frames, top_k: int) -> torch.Tensor:
    frames_S = choices_S.div(top_k, rounding_mode="floor")
    return frames.rows_N[frames_S] * top_k + choices_S % top_k


def _missing(
    frames: Frames | None, places_S: torch.Tensor, num_places: int, top_k: int, dropped: bool
) -> torch.Tensor | None:
    if dropped:
        missing = places_S.new_ones(num_places, dtype=torch.bool).index_fill_(0, places_S, False)
        return missing.nonzero().squeeze(1)
    if frames is None:
        return None
    if top_k == 1:
        return frames.padding
    choices = torch.arange(top_k, device=frames.padding.device)
    return (frames.padding.unsqueeze(1) * top_k + choices).flatten()
