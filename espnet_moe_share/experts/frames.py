"""Which rows of a batch are frames, and rows moved from one place to another.

Letters beside the package's: R rows of the layer's input (B * T, padding included).

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

    @cached_property
    def _list_of_rows(self) -> list[int]:
        return cast(list[int], self.rows_N.tolist())

    def list_of_places(self, top_k: int) -> list[int]:
        """Return row * K + k of the frames' choices, frame by frame."""
        if top_k == 1:
            return self._list_of_rows
        return [row * top_k + k for row in self._list_of_rows for k in range(top_k)]

    def take(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Return the frames (N, D) among the rows (R, D)."""
        return read(x_RD, self.rows_N, self.frames_R, self.padding)

    def put(self, y_ND: torch.Tensor) -> torch.Tensor:
        """Return rows (R, D) with the frames (N, D) in them, and zero on padding."""
        return restore(y_ND, self.rows_N, self.frames_R, self.padding)


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


def read(
    x: torch.Tensor, sources: torch.Tensor, back: torch.Tensor, missing: torch.Tensor | None
) -> torch.Tensor:
    """Return rows of ``x`` by number.

    Args:
        x: Rows.
        sources: Which to return.
        back: Where each row of ``x`` is among these; the gradient's way.
        missing: Rows of ``x`` that are not among them; None: there are none.
    """
    if not torch.is_grad_enabled():
        return x.index_select(0, sources)
    return cast(torch.Tensor, _Read.apply(x, sources, back, missing))


def restore(
    y: torch.Tensor, sources: torch.Tensor, back: torch.Tensor, missing: torch.Tensor | None
) -> torch.Tensor:
    """Undo :func:`read`, with the same arguments; zero where a row is ``missing``."""
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


class _Read(torch.autograd.Function):
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
