"""Matrix products of consecutive segments of rows, each with a matrix of its own."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from espnet_moe_share.experts.few_rows import linear_segments, split_rows


class _SegmentLinear(torch.autograd.Function):
    """The gradients of all weights are written in their place in one tensor.

    Autograd over slices would instead copy them one more time.
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
        return linear_segments(x_SI, ends, weight_EOI, bias_EO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SI, weight_EOI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = linear_segments(grad_SO, ctx.ends, weight_EOI.mT) if needs_x else None
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


def _write_outer_products(
    grads: Sequence[torch.Tensor], xs: Sequence[torch.Tensor], out_EOI: torch.Tensor
) -> None:
    """Write each expert's grad^T x, in the order in which it lies in memory."""
    if not out_EOI[0].is_contiguous():
        grads, xs, out_EOI = xs, grads, out_EOI.mT
    # views first, as in few_rows
    for grad, x, out in list(zip([grad.t() for grad in grads], xs, out_EOI.unbind())):
        if x.size(0):
            torch.mm(grad, x, out=out)
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
