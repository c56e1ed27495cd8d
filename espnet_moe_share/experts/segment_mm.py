"""Matrix products of consecutive segments of rows, each with a matrix of its own."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from espnet_moe_share.experts.few_rows import linear_segments


class _SegmentLinear(torch.autograd.Function):
    """Results and gradients are written in their place in one tensor each.

    Autograd over slices would instead join the pieces, and copy the weight gradients of all experts
    one more time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_SI: torch.Tensor,
        weight_EOI: torch.Tensor,
        bias_EO: torch.Tensor,
        ends: Sequence[int],
    ) -> torch.Tensor:
        ctx.save_for_backward(x_SI, weight_EOI)
        ctx.ends = ends
        y_SO = x_SI.new_empty(x_SI.size(0), weight_EOI.size(1))
        for y, piece in zip(
            split_rows(y_SO, ends), linear_segments(x_SI, ends, weight_EOI, bias_EO)
        ):
            y.copy_(piece)
        return y_SO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SI, weight_EOI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = _input_gradient(grad_SO, weight_EOI, ctx.ends) if needs_x else None
        grads = split_rows(grad_SO, ctx.ends)
        grad_weight = grad_bias = None
        if needs_weight:
            grad_weight = torch.empty_like(weight_EOI)
            _write_outer_products(grads, split_rows(x_SI, ctx.ends), grad_weight)
        if needs_bias:
            grad_bias = grad_SO.new_empty(weight_EOI.shape[:2])
            for grad, out in zip(grads, grad_bias.unbind()):
                torch.sum(grad, dim=0, out=out)
        return grad_x, grad_weight, grad_bias, None


def split_rows(x_SI: torch.Tensor, ends: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Return the segments of the rows (S, I) that end there."""
    return x_SI.split([end - begin for begin, end in zip([0, *ends], ends)])


def _input_gradient(
    grad_SO: torch.Tensor, weight_EOI: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    grad_SI = grad_SO.new_empty(grad_SO.size(0), weight_EOI.size(2))
    pieces = linear_segments(grad_SO, ends, weight_EOI.mT)
    for grad, piece in zip(split_rows(grad_SI, ends), pieces):
        grad.copy_(piece)
    return grad_SI


def _write_outer_products(
    grads: Sequence[torch.Tensor], xs: Sequence[torch.Tensor], out_EOI: torch.Tensor
) -> None:
    """Write each expert's grad^T x, in the order in which it lies in memory."""
    if not out_EOI[0].is_contiguous():
        grads, xs, out_EOI = xs, grads, out_EOI.mT
    for grad, x, out in zip(grads, xs, out_EOI.unbind()):
        if len(x):
            torch.mm(grad.t(), x, out=out)
        else:
            out.zero_()


_apply = cast(Callable[..., torch.Tensor], _SegmentLinear.apply)


def segment_linear(
    x_SI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """Apply linear layer e to segment e of the rows.

    Can be differentiated once.

    Args:
        x_SI: Rows (S, I), I inputs.
        weight_EOI: Weights (E, O, I), O outputs; of the dtype of ``x_SI``.
        bias_EO: Biases (E, O).
        ends: Where each segment ends and the next one begins; the last is S.

    Returns:
        (S, O). A matrix without rows gets a gradient of zero.
    """
    return _apply(x_SI, weight_EOI, bias_EO, ends)
