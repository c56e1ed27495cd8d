"""Frames to their experts and back, with one sort.

Letters beside the package's: R rows of the layer's input (B * T, padding included), S choices that
are computed (N * K without those dropped), in the order of their experts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

# Set on the mask that ESPnet hands from layer to layer, so that its valid frames are looked up (which
# waits for a GPU) once for all of them.
_ATTRIBUTE = "_espnet_moe_share_valid_frames"


def valid_frames(mask: torch.Tensor) -> torch.Tensor | None:
    """Return the numbers of the frames that are not padding.

    Args:
        mask: Bool of R elements in any shape, True on frames that are not padding. It must not be
            changed later.

    Returns:
        Their places in the flattened mask (N,), rising; None if that is all of them.
    """
    if not hasattr(mask, _ATTRIBUTE):
        frames = mask.flatten().nonzero().squeeze(1)
        setattr(mask, _ATTRIBUTE, None if frames.numel() == mask.numel() else frames)
    return cast(torch.Tensor | None, getattr(mask, _ATTRIBUTE))


def _write_rows(rows: torch.Tensor, places: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Put ``rows`` where ``places``, all different, say; zero elsewhere."""
    shape = num_rows, *rows.shape[1:]
    complete = places.numel() == num_rows
    return (rows.new_empty(shape) if complete else rows.new_zeros(shape)).index_copy_(
        0, places, rows
    )


class _TakeRows(torch.autograd.Function):
    """Rows by number. That no number comes twice makes the gradient a copy.

    The gradient of torch.index_select adds, row by row on a CPU, and in an order that differs from
    run to run on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.num_rows = x.size(0)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,) = ctx.saved_tensors
        return _write_rows(grad, places, ctx.num_rows), None


class _PutRows(torch.autograd.Function):
    """The reverse of :class:`_TakeRows`, zero in rows that nothing is put into."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor, num_rows: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        return _write_rows(rows, places, num_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places), None, None


class _TakeRepeatedRows(torch.autograd.Function):
    """Rows by number // top_k, numbers all different."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor, top_k: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.num_rows, ctx.top_k = x.size(0), top_k
        return x.index_select(0, places.div(top_k, rounding_mode="floor"))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (places,) = ctx.saved_tensors
        by_choice = _write_rows(grad, places, ctx.num_rows * ctx.top_k)
        return by_choice.unflatten(0, (-1, ctx.top_k)).sum(dim=1), None, None


# What torch.autograd.Function.apply lacks: types.
take_rows = cast(Callable[[torch.Tensor, torch.Tensor], torch.Tensor], _TakeRows.apply)
put_rows = cast(Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor], _PutRows.apply)
_take_repeated_rows = cast(
    Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor], _TakeRepeatedRows.apply
)


@dataclass(frozen=True)
class Dispatch:
    """Which frame goes to which expert.

    Attributes:
        choices_S: The choices by expert, within an expert by frame: n * K + k for the k-th choice of
            frame n.
        places_S: The same by row: r * K + k.
        ends_E: Expert e's choices end before this place of S, and begin where those of e - 1 end;
            int64.
        num_rows: R.
        top_k: K.
    """

    choices_S: torch.Tensor
    places_S: torch.Tensor
    ends_E: torch.Tensor
    num_rows: int
    top_k: int

    def gather(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the input of every choice (S, D)."""
        if self.top_k == 1:
            return take_rows(x_RD, self.places_S)
        return _take_repeated_rows(x_RD, self.places_S, self.top_k)

    def combine(self, y_SD: torch.Tensor, gates_NK: torch.Tensor) -> torch.Tensor:
        """Add up the outputs of each frame's choices, weighted by their gates.

        Returns:
            (R, D), zero on padding and for frames whose choices were all dropped.
        """
        gates_S = take_rows(gates_NK.flatten(), self.choices_S).to(y_SD.dtype)
        weighted_SD = y_SD * gates_S.unsqueeze(-1)
        y = put_rows(weighted_SD, self.places_S, self.num_rows * self.top_k)
        # in the same order always, other than by adding into the rows
        return y if self.top_k == 1 else y.unflatten(0, (-1, self.top_k)).sum(dim=1)


def plan_dispatch(
    expert_ids_NK: torch.Tensor,
    num_experts: int,
    frames_N: torch.Tensor | None,
    num_rows: int,
    dropped_NK: torch.Tensor | None = None,
) -> Dispatch:
    """Sort the choices by expert.

    Waits for a GPU only where choices are dropped.

    Args:
        expert_ids_NK: Chosen experts (N, K).
        num_experts: E.
        frames_N: Rows of the frames (N,); None: N = R and every row is a frame.
        num_rows: R.
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
    if frames_N is None:
        places_S = choices_S
    elif top_k == 1:
        places_S = frames_N[choices_S]
    else:
        frames_S = choices_S.div(top_k, rounding_mode="floor")
        places_S = frames_N[frames_S] * top_k + choices_S % top_k
    return Dispatch(choices_S, places_S, ends_E, num_rows, top_k)
