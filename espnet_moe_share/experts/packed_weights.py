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

from espnet_moe_share.experts.few_rows import HAS_ONEDNN, LEAST_WEIGHTS, Expert

# The operator by which torch.compile prepares linear layers for inference; not public.
_HAS_REORDER = HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
# For more rows of each expert oneDNN is as quick with the plain weight, and for many quicker.
_MOST_ROWS = 256


@dataclass
class _Packed:
    # Kept, so that no other tensor can come to lie where the packed one was.
    weight: torch.Tensor
    version: int
    address: int
    matrices: tuple[torch.Tensor, ...]
    # of b_1, w_2 and b_2, which `experts` are views of; layers may share w_1 alone
    addresses: tuple[int, ...] = ()
    experts: tuple[Expert, ...] = ()


# Not in the module: it would be copied, pickled and moved with it, which blocks cannot be.
_packed = WeakTensorKeyDictionary()


def _can_be_packed(weight_EOI: torch.Tensor) -> bool:
    """Whether it is a large Parameter in float32 whose changes torch counts."""
    if not _HAS_REORDER or type(weight_EOI) is not torch.nn.Parameter:
        return False
    if weight_EOI.device.type != "cpu" or weight_EOI.dtype != torch.float32:
        return False
    return weight_EOI[0].numel() >= LEAST_WEIGHTS and not weight_EOI.is_inference()


def pack(
    w_1: torch.Tensor, b_1: torch.Tensor, w_2: torch.Tensor, b_2: torch.Tensor
) -> Sequence[Expert] | None:
    """Return the experts one by one, with ``w_1`` in blocks; they take as much memory again.

    Kept until ``w_1`` changes, is gone or is trained (:func:`unpack`). A change in place through
    ``.data``, which torch does not count, is not seen before that.

    Args:
        w_1: Parameter (E, H, D).
        b_1: (E, H).
        w_2: (E, D, H).
        b_2: (E, D).

    Returns:
        For :func:`.few_rows.feed_forward_segments`. None where oneDNN does not multiply (another
        device or dtype) or gains nothing (small weights), or where changes of the weight are not
        counted.
    """
    if torch.compiler.is_compiling():
        return None
    # This is asked in every call, so with as little as will do.
    packed: _Packed | None = _packed.get(w_1)
    if packed is None or packed.version != w_1._version or packed.address != w_1.data_ptr():
        if not _can_be_packed(w_1):
            return None
        weight = w_1.detach()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        matrices = tuple(reorder(matrix, None) for matrix in weight.unbind())
        packed = _packed[w_1] = _Packed(weight, w_1._version, w_1.data_ptr(), matrices)
    addresses = (b_1.data_ptr(), w_2.data_ptr(), b_2.data_ptr())
    if packed.addresses != addresses:
        others = [other.detach().unbind() for other in (b_1, w_2, b_2)]
        packed.addresses, packed.experts = addresses, tuple(zip(packed.matrices, *others))
    return packed.experts


def unpack(w_1: torch.Tensor) -> None:
    """Forget the blocks, if there are any."""
    # asked in every training step, most of which have none
    if not torch.compiler.is_compiling() and _packed:
        _packed.pop(w_1, None)


def are_few(num_rows: int, num_experts: int) -> bool:
    """Whether blocks are of use for so many rows of all experts together."""
    return num_rows <= _MOST_ROWS * num_experts
