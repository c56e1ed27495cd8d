"""Experts in inference, with first weights in the blocks that oneDNN multiplies.

A product with a plain matrix arranges the matrix in blocks first, which for the few rows that an
expert gets takes as long as the product (benchmarks/pieces.py). In inference the matrices stay what
they are, so that the blocks are kept, and layers that share experts share the blocks, too. Of the
second weights, which lie by columns, blocks would save little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from espnet_moe_share.experts.few_rows import (
    HAS_ONEDNN,
    LEAST_WEIGHTS,
    onednn_linear,
    rounded_segment,
)

# The operator by which torch.compile prepares linear layers for inference; not public.
_HAS_REORDER = HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
# For more rows of each expert oneDNN is as quick with the plain weight, and for many quicker.
_MOST_ROWS = 256

# w_1 in blocks, b_1, w_2, b_2 of one expert
PackedExpert = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class _Packed:
    # Kept, so that no other tensor can come to lie where the packed one was.
    weight: torch.Tensor
    version: int
    matrices: tuple[torch.Tensor, ...]
    # b_1, w_2 and b_2 that `experts` are views of: looking at them is quicker than unbinding them
    others: tuple[torch.Tensor, ...] = ()
    experts: tuple[PackedExpert, ...] = ()


# Not in the module: it would be copied, pickled and moved with it, which blocks cannot be.
_packed = WeakTensorKeyDictionary()


def _same_place(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr()


def _pack(weight_EOI: torch.Tensor) -> _Packed | None:
    """Return the blocks of a large Parameter in float32 whose changes torch counts."""
    if not _HAS_REORDER or type(weight_EOI) is not torch.nn.Parameter:
        return None
    if weight_EOI.device.type != "cpu" or weight_EOI.dtype != torch.float32:
        return None
    if weight_EOI[0].numel() < LEAST_WEIGHTS:
        return None
    if weight_EOI.is_inference() or torch.compiler.is_compiling():
        return None
    packed: _Packed | None = _packed.get(weight_EOI)
    current = packed is not None and packed.version == weight_EOI._version
    if packed is None or not current or not _same_place(packed.weight, weight_EOI):
        weight = weight_EOI.detach()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        matrices = tuple(reorder(matrix, None) for matrix in weight.unbind())
        packed = _packed[weight_EOI] = _Packed(weight, weight_EOI._version, matrices)
    return packed


def pack(
    w_1: torch.Tensor, b_1: torch.Tensor, w_2: torch.Tensor, b_2: torch.Tensor
) -> Sequence[PackedExpert] | None:
    """Return the experts one by one, with ``w_1`` in blocks; they take as much memory again.

    Kept until ``w_1`` changes, is gone or is trained (:func:`unpack`). A change in place through
    ``.data``, which torch does not count, is not seen before that.

    Args:
        w_1: Parameter (E, H, D).
        b_1: (E, H).
        w_2: (E, D, H).
        b_2: (E, D).

    Returns:
        For :func:`apply_packed`. None where oneDNN does not multiply (another device or dtype) or
        gains nothing (small weights), or where changes of the weight are not counted.
    """
    packed = _pack(w_1)
    if packed is None:
        return None
    others = (b_1, w_2, b_2)
    if not packed.others or not all(map(_same_place, packed.others, others)):
        packed.others = tuple(other.detach() for other in others)
        packed.experts = tuple(zip(packed.matrices, *(other.unbind() for other in packed.others)))
    return packed.experts


def unpack(w_1: torch.Tensor) -> None:
    """Forget the blocks, if there are any."""
    if not torch.compiler.is_compiling():
        _packed.pop(w_1, None)


def are_few(num_rows: int, num_experts: int) -> bool:
    """Whether blocks are of use for so many rows of all experts together."""
    return num_rows <= _MOST_ROWS * num_experts


def apply_packed(
    experts: Sequence[PackedExpert],
    activation: torch.nn.Module,
    x_SD: torch.Tensor,
    ends: Sequence[int],
) -> torch.Tensor:
    """Apply each expert to its rows, without gradient.

    Args:
        experts: What :func:`pack` returned.
        activation: Of the hidden rows.
        x_SD: Rows (S, D), S from 1, in float32.
        ends: Where each expert's rows end and the next one's begin; the last is S.

    Returns:
        (S, D).
    """
    size = x_SD.size(0)
    pieces = []
    begin = 0
    for end, (w_1, b_1, w_2, b_2) in zip(ends, experts):
        if end > begin:
            first, last = rounded_segment(begin, end, size)
            hidden = onednn_linear(x_SD[first:last], w_1, b_1, activation)
            pieces.append(onednn_linear(hidden, w_2, b_2)[begin - first : end - first])
            begin = end
    return torch.cat(pieces)
