"""Matrix products of consecutive segments of rows, each with a matrix of its own."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from espnet_moe_share.experts.few_rows import few_rows_linear


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
        begin = 0
        for weight, bias, end in zip(weight_EOI.unbind(), bias_EO.unbind(), ends):
            if end > begin:
                y_SO[begin:end] = few_rows_linear(x_SI, begin, end, weight, bias)
            begin = end
        return y_SO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SI, weight_EOI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x_SI) if needs_x else None
        grad_weight = torch.empty_like(weight_EOI) if needs_weight else None
        grad_bias = grad_SO.new_empty(weight_EOI.shape[:2]) if needs_bias else None
        begin = 0
        for e, end in enumerate(ctx.ends):
            grad = grad_SO[begin:end]
            if grad_x is not None and end > begin:
                grad_x[begin:end] = few_rows_linear(grad_SO, begin, end, weight_EOI[e].t())
            if grad_weight is not None:
                if end > begin:
                    _outer_product(grad, x_SI[begin:end], grad_weight[e])
                else:
                    grad_weight[e].zero_()
            if grad_bias is not None:
                torch.sum(grad, dim=0, out=grad_bias[e])
            begin = end
        return grad_x, grad_weight, grad_bias, None


def _outer_product(grad: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
    """Write grad^T x to ``out``, in the order in which that lies in memory."""
    if out.is_contiguous():
        torch.mm(grad.t(), x, out=out)
    else:
        torch.mm(x.t(), grad, out=out.t())


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
