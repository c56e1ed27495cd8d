"""The one seam at which the experts are computed, and the ways to do it.

======================  ============================================================================
``loop``                one expert after the other in plain autograd; any dtype and device. The
                        reference: the others are tested against it.
``segment_mm``          the same products, written into one tensor (:mod:`.segment_mm`).
``batched``             one batched product, every expert's frames filled up to the largest load.
``grouped_mm``          ``torch.nn.functional.grouped_mm``; never waits for a GPU, but computes
                        bfloat16 alone without a loop of its own.
``dense``               every expert on every frame: no shape depends on data, for exporting.
======================  ============================================================================

``auto`` chooses by what benchmarks/expert_layer.py measured; see :func:`choose_kernel`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.dispatch import Dispatch
from espnet_moe_share.experts.segment_mm import segment_linear

if TYPE_CHECKING:
    from espnet_moe_share.experts.experts import StackedExperts

KERNELS = ("auto", "loop", "segment_mm", "batched", "grouped_mm", "dense")
_kernel: ContextVar[str] = ContextVar("expert_kernel", default="auto")


@contextmanager
def expert_kernel(name: str) -> Iterator[None]:
    """While it lasts, compute all experts by the kernel of this name.

    Raises:
        ConfigurationError: There is none of this name.
    """
    if name not in KERNELS:
        raise ConfigurationError(f"expert kernel {name!r}: there are {', '.join(KERNELS)}")
    token = _kernel.set(name)
    try:
        yield
    finally:
        _kernel.reset(token)


def is_traced() -> bool:
    """Whether torch.export or a tracer is looking on, for which shapes must not depend on data."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _autocast_dtype(x: torch.Tensor) -> torch.dtype:
    """Dtype of a matrix product of ``x``; autocast leaves float64 alone."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def choose_kernel(x: torch.Tensor, experts: "StackedExperts") -> str:
    """Return the kernel for an input, as :func:`expert_kernel` says or by measurement.

    ``dense`` for whoever traces. On a GPU ``grouped_mm`` for bfloat16 and sizes that it takes (a
    row has a multiple of 16 bytes), as it alone does not wait for the GPU there. Otherwise
    ``segment_mm``, or ``batched`` where that is quicker (:func:`_batched_is_quicker`).

    Args:
        x: Input of the layer (..., D).
        experts: The experts.
    """
    name = _kernel.get()
    if name != "auto":
        return name
    if is_traced():
        return "dense"
    rows_fit = all(size % 8 == 0 for size in experts.w_1.shape[1:])
    if x.is_cuda and _autocast_dtype(x) == torch.bfloat16 and rows_fit:
        return "grouped_mm"
    return "auto"


def apply_sorted(
    kernel: str, experts: "StackedExperts", x_RD: torch.Tensor, dispatch: Dispatch
) -> torch.Tensor:
    """Apply each expert to the rows that chose it.

    Args:
        kernel: What :func:`choose_kernel` returned, other than ``dense``.
        experts: The experts.
        x_RD: Input (R, D).
        dispatch: Who goes where.

    Returns:
        Output of every choice (S, D), in the dispatch's order.
    """
    if kernel == "grouped_mm":
        return _grouped_mm(experts, dispatch.gather(x_RD), dispatch.ends_E)
    ends = dispatch.ends_E.tolist()
    if kernel == "auto":
        kernel = "batched" if _batched_is_quicker(x_RD, ends) else "segment_mm"
    if kernel == "batched":
        return _batched(experts, dispatch.gather(x_RD), dispatch.ends_E, ends)
    x_SD = dispatch.gather(x_RD)
    return (_loop if kernel == "loop" else _segment_mm)(experts, x_SD, ends)


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
        y = experts.apply_one(x_ND, *weights)
        y = y * gate.unsqueeze(1).to(y.dtype)
        y_ND = y if y_ND is None else y_ND + y
    assert y_ND is not None
    return y_ND


def _loop(experts: "StackedExperts", x_SD: torch.Tensor, ends: list[int]) -> torch.Tensor:
    counts = [end - begin for begin, end in zip([0, *ends], ends)]
    pieces = zip(x_SD.split(counts), experts.unbind())
    return torch.cat([experts.apply_one(x, *weights) for x, weights in pieces])


def _segment_mm(experts: "StackedExperts", x_SD: torch.Tensor, ends: list[int]) -> torch.Tensor:
    if not torch.is_grad_enabled():
        # Nothing has to be kept: a few rows at a time stay in cache.
        return _loop(experts, x_SD, ends)
    dtype = _autocast_dtype(x_SD)
    hidden_SH = segment_linear(x_SD.to(dtype), experts.w_1.to(dtype), experts.b_1.to(dtype), ends)
    hidden_SH = experts.dropout(experts.activation(hidden_SH))
    return segment_linear(hidden_SH, experts.w_2.to(dtype), experts.b_2.to(dtype), ends)


def _batched_is_quicker(x_RD: torch.Tensor, ends: list[int]) -> bool:
    if torch.is_grad_enabled() or x_RD.is_cuda or not ends[-1]:
        return False
    largest = max(end - begin for begin, end in zip([0, *ends], ends))
    return largest <= 128 and largest * len(ends) <= 1.5 * ends[-1]


def _batched(
    experts: "StackedExperts", x_SD: torch.Tensor, ends_E: torch.Tensor, ends: list[int]
) -> torch.Tensor:
    capacity = max((end - begin for begin, end in zip([0, *ends], ends)), default=0)
    begins_E = F.pad(ends_E, (1, -1))
    rows_EC = begins_E.unsqueeze(1) + torch.arange(capacity, device=ends_E.device)
    # what fills up are copies of the last row, which are not read again
    rows = rows_EC.clamp(max=ends[-1] - 1).flatten()
    x_ECD = x_SD.index_select(0, rows).unflatten(0, rows_EC.shape)
    dtype = _autocast_dtype(x_SD)
    x_ECD, w_1, b_1, w_2, b_2 = (
        tensor.to(dtype) for tensor in (x_ECD, experts.w_1, experts.b_1, experts.w_2, experts.b_2)
    )
    hidden_ECH = torch.baddbmm(b_1.unsqueeze(1), x_ECD, w_1.mT)
    hidden_ECH = experts.dropout(experts.activation(hidden_ECH))
    y_ECD = torch.baddbmm(b_2.unsqueeze(1), hidden_ECH, w_2.mT)
    rows_S = torch.arange(x_SD.size(0), device=ends_E.device)
    expert_S = torch.searchsorted(ends_E, rows_S, right=True)
    return y_ECD.flatten(0, 1).index_select(0, expert_S * capacity + rows_S - begins_E[expert_S])


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
