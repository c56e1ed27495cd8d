"""The one seam at which the experts are computed, and the ways to do it.

======================  ============================================================================
``loop``                one expert after the other in plain autograd; any dtype and device. The
                        reference: the others are tested against it.
``segment_mm``          the same products, by oneDNN or all at once where that is quicker, in one
                        function of autograd (:mod:`.segment_mm`); ``loop`` for an activation
                        unknown to it.
``grouped_mm``          ``torch.nn.functional.grouped_mm``; never waits for a GPU, but computes
                        bfloat16 alone without a loop of its own.
``dense``               every expert on every frame: no shape depends on data, for exporting.
======================  ============================================================================

``auto`` chooses by what benchmarks/expert_layer.py measured; see :func:`choose_kernel`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch.nn import functional as F

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.dispatch import Choices, plan_dispatch
from espnet_moe_share.experts.expert_rows import (
    BatchedRows,
    ExpertRows,
    RoundedRows,
    own_rows,
    rows_for_inference,
    rows_for_training,
)
from espnet_moe_share.experts.experts import StackedExperts
from espnet_moe_share.experts.onednn import apply_in_place, onednn_linear
from espnet_moe_share.experts.packed_weights import can_pack, pack, unpack
from espnet_moe_share.experts.segment_mm import ACTIVATIONS, Activation, feed_forward

KERNELS = ("auto", "loop", "segment_mm", "grouped_mm", "dense")
# torch.compile would stop at a ContextVar, in every layer.
_kernel = "auto"


@contextmanager
def expert_kernel(name: str) -> Iterator[None]:
    """While it lasts, compute all experts of the process by the kernel of this name.

    With gradient checkpointing the backward pass, too, has to be within it.

    Raises:
        ConfigurationError: There is none of this name.
    """
    if name not in KERNELS:
        raise ConfigurationError(f"expert kernel {name!r}: there are {', '.join(KERNELS)}")
    global _kernel
    before, _kernel = _kernel, name
    try:
        yield
    finally:
        _kernel = before


def is_traced() -> bool:
    """Whether torch.export or a tracer is looking on, for which shapes must not depend on data."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _autocast_dtype(x: torch.Tensor) -> torch.dtype:
    """Dtype of a matrix product of ``x``; autocast leaves float64 alone."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def choose_kernel(x: torch.Tensor, experts: StackedExperts) -> str:
    """Return the kernel for an input, as :func:`expert_kernel` says or by measurement.

    ``dense`` for whoever traces. On a GPU ``grouped_mm`` for bfloat16 and sizes that it takes (a
    row has a multiple of 16 bytes), as it alone does not wait for the GPU there. Otherwise
    ``segment_mm``.

    Args:
        x: Input of the layer (..., D).
        experts: The experts.
    """
    if _kernel != "auto":
        return _kernel
    if is_traced():
        return "dense"
    if not x.is_cuda or _autocast_dtype(x) != torch.bfloat16:
        return "segment_mm"
    rows_fit = all(size % 8 == 0 for size in experts.w_1.shape[1:])
    return "grouped_mm" if rows_fit else "segment_mm"


def apply_sorted(
    kernel: str, experts: StackedExperts, x_RD: torch.Tensor, choices: Choices
) -> torch.Tensor:
    """Apply each expert to the rows that chose it, and add up what the gates leave of it.

    Args:
        kernel: What :func:`choose_kernel` returned, other than ``dense``.
        experts: The experts.
        x_RD: Input (R, D).
        choices: Which rows chose which expert.

    Returns:
        (R, D), zero on padding and for frames whose choices were all dropped.
    """
    if kernel == "grouped_mm":
        return _grouped_mm(experts, x_RD, choices)
    if kernel == "segment_mm":
        if torch.is_grad_enabled():
            unpack(experts.w_1, experts.w_2)
            activation = ACTIVATIONS.get(type(experts.activation))
            if activation is not None:
                return _training(experts, x_RD, choices, activation)
        elif not experts.training and not torch.is_autocast_enabled(x_RD.device.type):
            return _inference(experts, x_RD, choices)
    return _loop(experts, x_RD, choices)


def apply_dense(
    experts: StackedExperts,
    x_ND: torch.Tensor,
    expert_ids_NK: torch.Tensor,
    gates_NK: torch.Tensor,
) -> torch.Tensor:
    """Apply every expert to every frame and add up what the gates, zero elsewhere, leave of it.

    Returns:
        (N, D).
    """
    gates_NE = gates_NK.new_zeros(x_ND.size(0), experts.w_1.size(0)).scatter(
        1, expert_ids_NK, gates_NK
    )
    y_ND: torch.Tensor | None = None
    for weights, gate in zip(experts.unbind(), gates_NE.unbind(dim=1)):
        y = experts.apply_one(x_ND, weights)
        y = y * gate.unsqueeze(1).to(y.dtype)
        y_ND = y if y_ND is None else y_ND + y
    assert y_ND is not None
    return y_ND


def _loop(experts: StackedExperts, x_RD: torch.Tensor, choices: Choices) -> torch.Tensor:
    dispatch = plan_dispatch(choices, own_rows)
    assert dispatch.rows is not None
    pieces = zip(dispatch.gather(x_RD).split(dispatch.rows.sizes), experts.unbind())
    y_SD = torch.cat([experts.apply_one(x, weights) for x, weights in pieces])
    return dispatch.combine(y_SD, choices.gates_NK)


def _training(
    experts: StackedExperts, x_RD: torch.Tensor, choices: Choices, activation: Activation
) -> torch.Tensor:
    weights: Sequence[torch.Tensor] = experts.w_1, experts.b_1, experts.w_2, experts.b_2
    dtype, gates_NK = _autocast_dtype(x_RD), choices.gates_NK
    if not dtype == x_RD.dtype == gates_NK.dtype == weights[0].dtype:
        x_RD, gates_NK, *weights = (one.to(dtype) for one in (x_RD, gates_NK, *weights))

    def lay_out(ends: list[int]) -> ExpertRows:
        return rows_for_training(ends, x_RD, weights[0])

    dispatch = plan_dispatch(choices, lay_out)
    rate = cast(float, experts.dropout.p) if experts.training else 0.0
    return feed_forward(x_RD, weights, dispatch.gates(gates_NK), dispatch, activation, rate)


def _inference(experts: StackedExperts, x_RD: torch.Tensor, choices: Choices) -> torch.Tensor:
    w_1, b_1, w_2, b_2 = experts.w_1, experts.b_1, experts.w_2, experts.b_2

    def lay_out(ends: list[int]) -> ExpertRows:
        can_be_packed = x_RD.dtype == torch.float32 and can_pack(w_1) and can_pack(w_2)
        return rows_for_inference(ends, x_RD, w_1, can_be_packed)

    dispatch = plan_dispatch(choices, lay_out)
    rows = dispatch.rows
    assert rows is not None
    x_PD = x_RD.index_select(0, dispatch.sources())
    if isinstance(rows, BatchedRows):
        hidden_PH = apply_in_place(experts.activation, rows.linear(x_PD, w_1, b_1))
        y_PD = rows.linear(hidden_PH, w_2, b_2)
    else:
        y_PD = _one_by_one(experts, x_PD, rows)
    return dispatch.combine(y_PD, choices.gates_NK)


def _one_by_one(experts: StackedExperts, x_PD: torch.Tensor, rows: ExpertRows) -> torch.Tensor:
    """Apply one expert after the other, so that its hidden rows may stay in cache."""
    activation, by_onednn = experts.activation, isinstance(rows, RoundedRows)
    packed = pack(experts.w_1, experts.b_1, experts.w_2, experts.b_2) if by_onednn else None
    outputs = []
    for x, (w_1, b_1, w_2, b_2) in zip(x_PD.split(rows.sizes), packed or experts.unbind()):
        if x.size(0) == 0:
            continue
        if by_onednn:
            outputs.append(onednn_linear(onednn_linear(x, w_1, b_1, activation), w_2, b_2))
        else:
            hidden = apply_in_place(activation, F.linear(x, w_1, b_1))
            outputs.append(F.linear(hidden, w_2, b_2))
    return torch.cat(outputs) if outputs else x_PD


def _grouped_mm(experts: StackedExperts, x_RD: torch.Tensor, choices: Choices) -> torch.Tensor:
    dispatch = plan_dispatch(choices)
    x_SD, ends_E = dispatch.gather(x_RD), dispatch.ends_E
    assert ends_E is not None
    dtype = _autocast_dtype(x_SD)
    offsets_E = ends_E.to(torch.int32)
    rows_S = torch.arange(x_SD.size(0), device=x_SD.device)
    # grouped_mm takes no bias. By a product with one-hot rows its gradient is one, too, which has
    # the same order of additions in every run.
    expert_S = torch.searchsorted(ends_E, rows_S, right=True)
    one_hot_SE = F.one_hot(expert_S, ends_E.numel()).to(dtype)

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y = F.grouped_mm(x, weight.to(dtype).mT, offs=offsets_E)
        return y + one_hot_SE @ bias.to(dtype)

    hidden_SH = linear(x_SD.to(dtype), experts.w_1, experts.b_1)
    hidden_SH = experts.dropout(experts.activation(hidden_SH))
    return dispatch.combine(linear(hidden_SH, experts.w_2, experts.b_2), choices.gates_NK)
