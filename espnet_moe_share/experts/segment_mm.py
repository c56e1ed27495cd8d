"""All experts on the rows that chose them, in one function of autograd.

Where an expert gets a handful of rows, what lies between the matrix products takes as long as they
do: nodes of the graph, operators, lines of Python. So there is one node, with as little in it as
will do (benchmarks/README.md, what was tried).

Letters beside the package's: P rows that are multiplied (:mod:`.expert_rows`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from espnet_moe_share.experts.dispatch import Dispatch, add_choices, weigh_choices
from espnet_moe_share.experts.expert_rows import ExpertRows
from espnet_moe_share.experts.frames import read_or_zero


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
        places_P: torch.Tensor,
        sources_P: torch.Tensor,
        back_RK: torch.Tensor,
        missing: torch.Tensor | None,
        rows: ExpertRows,
        activation: Activation,
        dropout_rate: float,
    ) -> torch.Tensor:
        x_PD = x_RD.index_select(0, sources_P)
        hidden_PH = rows.linear(x_PD, w_1, b_1)
        active_PH, kept_PH = activation.forward(hidden_PH), None
        if dropout_rate > 0:
            active_PH, kept_PH = torch.native_dropout(active_PH, dropout_rate, True)
        y_PD = rows.linear(active_PH, w_2, b_2)
        y = read_or_zero(y_PD, back_RK, missing)
        way = places_P, back_RK, missing
        ctx.save_for_backward(x_PD, hidden_PH, active_PH, kept_PH, y, w_1, w_2, gates_RK, *way)
        ctx.options = rows, activation, dropout_rate
        return weigh_choices(y, gates_RK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_PD, hidden_PH, active_PH, kept_PH, y, w_1, w_2, gates_RK, *way = ctx.saved_tensors
        places_P, back_RK, missing = way
        rows, activation, dropout_rate = ctx.options
        needs_x, needs_w_1, needs_b_1, needs_w_2, needs_b_2, needs_gates = ctx.needs_input_grad[:6]
        grad_x = grad_w_1 = grad_b_1 = grad_gates = None
        gates, top_k = gates_RK, gates_RK.size(1)
        if top_k > 1:
            grad_RD, gates = grad_RD.unsqueeze(1), gates.unsqueeze(2)
            y = y.unflatten(0, (-1, top_k))
        if needs_gates:
            grad_gates = (grad_RD * y).sum(dim=-1).view_as(gates_RK)
        grad_PD = (grad_RD * gates).flatten(0, -2).index_select(0, places_P)
        rows.zero_filling_(grad_PD)
        if needs_x or needs_w_1 or needs_b_1:
            grad_PH = rows.linear(grad_PD, w_2.mT)
            if kept_PH is not None:
                scale = 1 / (1 - dropout_rate) if dropout_rate < 1 else 0.0
                grad_PH = torch.ops.aten.native_dropout_backward.default(grad_PH, kept_PH, scale)
            grad_PH = activation.backward(grad_PH, hidden_PH)
        grad_w_2 = _weight_gradient(grad_PD, active_PH, rows, w_2) if needs_w_2 else None
        grad_b_2 = rows.sum(grad_PD) if needs_b_2 else None
        if needs_w_1:
            grad_w_1 = _weight_gradient(grad_PH, x_PD, rows, w_1)
        if needs_b_1:
            grad_b_1 = rows.sum(grad_PH)
        if needs_x:
            grad_PD = rows.linear(grad_PH, w_1.mT)
            grad_x = add_choices(read_or_zero(grad_PD, back_RK, missing), top_k)
        return grad_x, grad_w_1, grad_b_1, grad_w_2, grad_b_2, grad_gates, *7 * (None,)


def _weight_gradient(
    grad_PO: torch.Tensor, x_PI: torch.Tensor, rows: ExpertRows, weight_EOI: torch.Tensor
) -> torch.Tensor:
    """Return grad^T x of every expert's rows (E, O, I), in the weight's order in memory.

    Written to their place in one tensor; autograd over slices would copy them one more time.
    """
    grad_weight = torch.empty_like(weight_EOI)
    if weight_EOI.stride(2) == 1:
        rows.write_products(grad_PO, x_PI, grad_weight)
    else:
        rows.write_products(x_PI, grad_PO, grad_weight.mT)
    return grad_weight


def feed_forward(
    x_RD: torch.Tensor,
    weights: Sequence[torch.Tensor],
    gates_RK: torch.Tensor,
    dispatch: Dispatch,
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
        activation: Of the hidden rows.
        dropout_rate: Of the activations; 0 draws no random numbers.

    Returns:
        (R, D), zero on padding and for frames whose choices were all dropped. An expert without
        rows gets a gradient of zero.
    """
    way = dispatch.places_P, dispatch.sources(), dispatch.back_RK, dispatch.missing
    y = _FeedForward.apply(x_RD, *weights, gates_RK, *way, dispatch.rows, activation, dropout_rate)
    return cast(torch.Tensor, y)
