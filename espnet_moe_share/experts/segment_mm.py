"""All experts on the rows that chose them, in one function of autograd.

Where an expert gets a handful of rows, what lies between the matrix products takes as long as they
do: nodes of the graph, operators, lines of Python. So there is one node, with as little in it as
will do (benchmarks/README.md, what was tried).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from espnet_moe_share.experts.dispatch import Dispatch, add_choices, read_or_zero, weigh_choices
from espnet_moe_share.experts.few_rows import Segments, linear_segments


class Activation(NamedTuple):
    """An activation, and its gradient by that of its result and by its input."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# By class of module; ESPnet's default and what its Transformer has.
ACTIVATIONS: dict[type, Activation] = {
    torch.nn.SiLU: Activation(F.silu, torch.ops.aten.silu_backward.default),
    torch.nn.ReLU: Activation(
        F.relu, lambda grad, x: torch.ops.aten.threshold_backward.default(grad, x, 0)
    ),
}


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_RD: torch.Tensor,
        w_1: torch.Tensor,
        b_1: torch.Tensor,
        w_2: torch.Tensor,
        b_2: torch.Tensor,
        gates_RK: torch.Tensor,
        places_S: torch.Tensor,
        sorted_RK: torch.Tensor,
        missing: torch.Tensor | None,
        segments: Segments,
        activation: Activation,
        dropout_rate: float,
    ) -> torch.Tensor:
        top_k = gates_RK.size(1)
        rows_S = places_S if top_k == 1 else places_S.div(top_k, rounding_mode="floor")
        x_SD = x_RD.index_select(0, rows_S)
        hidden_SH = linear_segments(x_SD, segments, w_1, b_1)
        active_SH, kept_SH = activation.forward(hidden_SH), None
        if dropout_rate > 0:
            active_SH, kept_SH = torch.native_dropout(active_SH, dropout_rate, True)
        y_SD = linear_segments(active_SH, segments, w_2, b_2)
        y = read_or_zero(y_SD, sorted_RK, missing)
        way = places_S, sorted_RK, missing
        ctx.save_for_backward(x_SD, hidden_SH, active_SH, kept_SH, y, w_1, w_2, gates_RK, *way)
        ctx.options = segments, activation, dropout_rate
        return weigh_choices(y, gates_RK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_SD, hidden_SH, active_SH, kept_SH, y, w_1, w_2, gates_RK, *way = ctx.saved_tensors
        places_S, sorted_RK, missing = way
        segments, activation, dropout_rate = ctx.options
        needs_x, needs_w_1, needs_b_1, needs_w_2, needs_b_2, needs_gates = ctx.needs_input_grad[:6]
        grad_x = grad_w_1 = grad_b_1 = grad_gates = None
        gates, top_k = gates_RK, gates_RK.size(1)
        if top_k > 1:
            grad_RD, gates = grad_RD.unsqueeze(1), gates.unsqueeze(2)
            y = y.unflatten(0, (-1, top_k))
        if needs_gates:
            grad_gates = (grad_RD * y).sum(dim=-1).view_as(gates_RK)
        grad_SD = (grad_RD * gates).flatten(0, -2).index_select(0, places_S)
        if needs_x or needs_w_1 or needs_b_1:
            grad_SH = linear_segments(grad_SD, segments, w_2.mT)
            if kept_SH is not None:
                scale = 1 / (1 - dropout_rate) if dropout_rate < 1 else 0.0
                grad_SH = torch.ops.aten.native_dropout_backward.default(grad_SH, kept_SH, scale)
            grad_SH = activation.backward(grad_SH, hidden_SH)
        grad_w_2 = _weight_gradient(grad_SD, active_SH, segments, w_2) if needs_w_2 else None
        grad_b_2 = segments.sum(grad_SD) if needs_b_2 else None
        if needs_w_1:
            grad_w_1 = _weight_gradient(grad_SH, x_SD, segments, w_1)
        if needs_b_1:
            grad_b_1 = segments.sum(grad_SH)
        if needs_x:
            grad_SD = linear_segments(grad_SH, segments, w_1.mT)
            grad_x = add_choices(read_or_zero(grad_SD, sorted_RK, missing), top_k)
        return grad_x, grad_w_1, grad_b_1, grad_w_2, grad_b_2, grad_gates, *6 * (None,)


def _weight_gradient(
    grad_SO: torch.Tensor, x_SI: torch.Tensor, segments: Segments, weight_EOI: torch.Tensor
) -> torch.Tensor:
    """Return grad^T x of every segment (E, O, I), in the weight's order in memory.

    Written to their place in one tensor; autograd over slices would copy them one more time.
    """
    grad_weight = out_EOI = torch.empty_like(weight_EOI)
    if weight_EOI.stride(2) != 1:
        grad_SO, x_SI, out_EOI = x_SI, grad_SO, out_EOI.mT
    grads, xs = [grad.t() for grad in segments.split(grad_SO)], segments.split(x_SI)
    on_cpu = out_EOI.device.type == "cpu"
    for size, grad, x, out in zip(segments.sizes, grads, xs, out_EOI.unbind()):
        # MKL writes block by block, to memory that is not in cache at half the speed
        # (benchmarks/pieces.py); zeros, in a row, bring it there.
        if on_cpu or not size:
            out.zero_()
        if size:
            torch.mm(grad, x, out=out)
    return grad_weight


def feed_forward(
    x_RD: torch.Tensor,
    weights: Sequence[torch.Tensor],
    gates_RK: torch.Tensor,
    dispatch: Dispatch,
    segments: Segments,
    activation: Activation,
    dropout_rate: float,
) -> torch.Tensor:
    """Apply each expert to the rows that chose it, and add up each row's, weighted by its gates.

    Can be differentiated once.

    Args:
        x_RD: Input (R, D).
        weights: ``w_1`` (E, H, D), ``b_1`` (E, H), ``w_2`` (E, D, H) and ``b_2`` (E, D), of the
            dtype of ``x_RD``.
        gates_RK: Gates of all rows (R, K), of the same dtype.
        dispatch: Who goes where.
        segments: Its segments.
        activation: Of the hidden rows.
        dropout_rate: Of the activations; 0 draws no random numbers.

    Returns:
        (R, D), zero on padding and for frames whose choices were all dropped. An expert without
        rows gets a gradient of zero.
    """
    way = dispatch.places_S, dispatch.sorted_RK, dispatch.missing
    y = _FeedForward.apply(x_RD, *weights, gates_RK, *way, segments, activation, dropout_rate)
    return cast(torch.Tensor, y)
