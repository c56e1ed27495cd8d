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
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.dispatch import Dispatch
from espnet_moe_share.experts.few_rows import Segments, feed_forward_segments, find_segments
from espnet_moe_share.experts.packed_weights import pack, unpack
from espnet_moe_share.experts.padded_rows import MOST_PRODUCTS, PaddedRows, pad_rows
from espnet_moe_share.experts.segment_mm import ACTIVATIONS, feed_forward

if TYPE_CHECKING:
    from espnet_moe_share.experts.experts import StackedExperts

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


def choose_kernel(x: torch.Tensor, experts: "StackedExperts") -> str:
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
    kernel: str,
    experts: "StackedExperts",
    x_RD: torch.Tensor,
    dispatch: Dispatch,
    gates_NK: torch.Tensor,
) -> torch.Tensor:
    """Apply each expert to the rows that chose it, and add up what the gates leave of it.

    Args:
        kernel: What :func:`choose_kernel` returned, other than ``dense``.
        experts: The experts.
        x_RD: Input (R, D).
        dispatch: Who goes where.
        gates_NK: Gates of the choices (N, K).

    Returns:
        (R, D), zero on padding and for frames whose choices were all dropped.
    """
    if kernel == "grouped_mm":
        y_SD = _grouped_mm(experts, dispatch.gather(x_RD), dispatch.ends_E)
        return dispatch.combine(y_SD, gates_NK)
    ends = dispatch.ends_E.tolist()
    if kernel == "segment_mm" and torch.is_grad_enabled():
        return _segment_mm(experts, x_RD, dispatch, ends, gates_NK)
    x_SD = dispatch.gather(x_RD)
    segments = find_segments(ends, x_SD, experts.w_1)
    compute = _loop if kernel == "loop" else _inference
    return dispatch.combine(compute(experts, x_SD, segments), gates_NK)


def apply_dense(
    experts: "StackedExperts",
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


def _loop(experts: "StackedExperts", x_SD: torch.Tensor, segments: Segments) -> torch.Tensor:
    pieces = zip(segments.split(x_SD), experts.unbind())
    return torch.cat([experts.apply_one(x, weights) for x, weights in pieces])


def _segment_mm(
    experts: "StackedExperts",
    x_RD: torch.Tensor,
    dispatch: Dispatch,
    ends: list[int],
    gates_NK: torch.Tensor,
) -> torch.Tensor:
    unpack(experts.w_1, experts.w_2)
    activation = ACTIVATIONS.get(type(experts.activation))
    if activation is None:
        x_SD = dispatch.gather(x_RD)
        segments = find_segments(ends, x_SD, experts.w_1)
        return dispatch.combine(_loop(experts, x_SD, segments), gates_NK)
    weights: Sequence[torch.Tensor] = experts.w_1, experts.b_1, experts.w_2, experts.b_2
    gates_RK = dispatch.gates(gates_NK)
    dtype = _autocast_dtype(x_RD)
    if not dtype == x_RD.dtype == gates_RK.dtype == weights[0].dtype:
        x_RD, gates_RK, *weights = (one.to(dtype) for one in (x_RD, gates_RK, *weights))
    rows: Segments | PaddedRows | None = pad_rows(ends, x_RD, weights[0], MOST_PRODUCTS)
    if rows is None:
        rows = find_segments(ends, x_RD, weights[0])
    rate = cast(float, experts.dropout.p) if experts.training else 0.0
    return feed_forward(x_RD, weights, gates_RK, dispatch, rows, activation, rate)


def _inference(experts: "StackedExperts", x_SD: torch.Tensor, segments: Segments) -> torch.Tensor:
    if experts.training or torch.is_autocast_enabled(x_SD.device.type) or segments.rounded is None:
        return _loop(experts, x_SD, segments)
    weights = pack(experts.w_1, experts.b_1, experts.w_2, experts.b_2)
    if weights is None:
        weights = list(experts.unbind())
    return feed_forward_segments(x_SD, segments, weights, experts.activation)


def _grouped_mm(
    experts: "StackedExperts", x_SD: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
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
    return linear(hidden_SH, experts.w_2, experts.b_2)
