"""Both linear layers of all experts, with the way of the rows to them and back.

One function of autograd each, of few operators: where an expert gets a handful of rows, what lies
between the matrix products takes as long as they do (benchmarks/README.md).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from espnet_moe_share.experts.dispatch import Dispatch, add_choices, read_or_zero, weigh_choices
from espnet_moe_share.experts.few_rows import Segments, linear_segments


class _GatherLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_RI: torch.Tensor,
        weight_EOI: torch.Tensor,
        bias_EO: torch.Tensor,
        segments: Segments,
        places_S: torch.Tensor,
        sorted_RK: torch.Tensor,
        missing: torch.Tensor | None,
        top_k: int,
    ) -> torch.Tensor:
        rows_S = places_S if top_k == 1 else places_S.div(top_k, rounding_mode="floor")
        x_SI = x_RI.index_select(0, rows_S)
        ctx.save_for_backward(x_SI, weight_EOI, sorted_RK, missing)
        ctx.segments, ctx.top_k = segments, top_k
        return linear_segments(x_SI, segments, weight_EOI, bias_EO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SI, weight_EOI, sorted_RK, missing = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_SI = linear_segments(grad_SO, ctx.segments, weight_EOI.mT)
            grad_x = add_choices(read_or_zero(grad_SI, sorted_RK, missing), ctx.top_k)
        return grad_x, *_parameter_gradients(ctx, grad_SO, x_SI, weight_EOI), *5 * (None,)


class _LinearCombine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_SI: torch.Tensor,
        weight_EOI: torch.Tensor,
        bias_EO: torch.Tensor,
        segments: Segments,
        places_S: torch.Tensor,
        sorted_RK: torch.Tensor,
        missing: torch.Tensor | None,
        gates_RK: torch.Tensor,
    ) -> torch.Tensor:
        y_SO = linear_segments(x_SI, segments, weight_EOI, bias_EO)
        y = read_or_zero(y_SO, sorted_RK, missing)
        ctx.save_for_backward(x_SI, weight_EOI, places_S, y, gates_RK)
        ctx.segments = segments
        return weigh_choices(y, gates_RK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SI, weight_EOI, places_S, y, gates_RK = ctx.saved_tensors
        grad_R1O = grad_RO.unsqueeze(1)
        grad_gates = None
        if ctx.needs_input_grad[7]:
            grad_gates = (grad_R1O * y.view(*gates_RK.shape, -1)).sum(dim=2)
        grad_RKO = grad_R1O * gates_RK.unsqueeze(2)
        grad_SO = grad_RKO.flatten(0, 1).index_select(0, places_S)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = linear_segments(grad_SO, ctx.segments, weight_EOI.mT)
        of_parameters = _parameter_gradients(ctx, grad_SO, x_SI, weight_EOI)
        return grad_x, *of_parameters, *4 * (None,), grad_gates


def _parameter_gradients(
    ctx: Any, grad_SO: torch.Tensor, x_SI: torch.Tensor, weight_EOI: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of weights (E, O, I) and biases (E, O), where they are needed."""
    _, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    segments: Segments = ctx.segments
    grad_weight = grad_bias = None
    if needs_weight:
        grad_weight = torch.empty_like(weight_EOI)
        _write_outer_products(segments.split(grad_SO), segments.split(x_SI), grad_weight)
    if needs_bias:
        grad_bias = segments.sum(grad_SO)
    return grad_weight, grad_bias


def _write_outer_products(
    grads: Sequence[torch.Tensor], xs: Sequence[torch.Tensor], out_EOI: torch.Tensor
) -> None:
    """Write each expert's grad^T x, in the order in which it lies in memory.

    Into their place in one tensor; autograd over slices would copy them one more time.
    """
    if not out_EOI[0].is_contiguous():
        grads, xs, out_EOI = xs, grads, out_EOI.mT
    on_cpu = out_EOI.device.type == "cpu"
    # views first, as in few_rows
    for grad, x, out in list(zip([grad.t() for grad in grads], xs, out_EOI.unbind())):
        # MKL writes block by block, to memory that is not in cache at half the speed
        # (benchmarks/pieces.py); zeros, in a row, bring it there.
        if on_cpu or not x.size(0):
            out.zero_()
        if x.size(0):
            torch.mm(grad, x, out=out)


def gather_linear(
    x_RI: torch.Tensor,
    weight_EOI: torch.Tensor,
    bias_EO: torch.Tensor,
    dispatch: Dispatch,
    segments: Segments,
) -> torch.Tensor:
    """Apply linear layer e to the rows that chose expert e.

    Can be differentiated once.

    Args:
        x_RI: Rows (R, I), I inputs.
        weight_EOI: Weights (E, O, I), O outputs; of the dtype of ``x_RI``.
        bias_EO: Biases (E, O).
        dispatch: Who goes where.
        segments: Its segments.

    Returns:
        Of every choice (S, O), in the dispatch's order. A matrix without rows gets a gradient of
        zero.
    """
    of = (dispatch.places_S, dispatch.sorted_RK, dispatch.missing, dispatch.top_k)
    return cast(torch.Tensor, _GatherLinear.apply(x_RI, weight_EOI, bias_EO, segments, *of))


def linear_combine(
    x_SI: torch.Tensor,
    weight_EOI: torch.Tensor,
    bias_EO: torch.Tensor,
    dispatch: Dispatch,
    segments: Segments,
    gates_RK: torch.Tensor,
) -> torch.Tensor:
    """Apply linear layer e to segment e of the rows, and add up each frame's, weighted by gates.

    Can be differentiated once.

    Args:
        x_SI: Of every choice (S, I), in the dispatch's order.
        weight_EOI: Weights (E, O, I); of the dtype of ``x_SI``.
        bias_EO: Biases (E, O).
        dispatch: Who goes where.
        segments: Its segments.
        gates_RK: Gates of all rows (R, K), of the same dtype.

    Returns:
        (R, O), zero on padding and for frames whose choices were all dropped.
    """
    of = (dispatch.places_S, dispatch.sorted_RK, dispatch.missing, gates_RK)
    return cast(torch.Tensor, _LinearCombine.apply(x_SI, weight_EOI, bias_EO, segments, *of))
