"""Weights of experts in the blocks that oneDNN multiplies, kept from one inference to the next.

A product with a plain matrix arranges the matrix in blocks first, which for the few rows that an
expert gets takes as long as the product (benchmarks/pieces.py). In inference the matrices stay what
they are, and layers that share experts share the blocks, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.weak import WeakTensorKeyDictionary

# The operator by which torch.compile prepares linear layers for inference; not public.
_HAS_REORDER = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_reorder_linear_weight"
)


@dataclass(frozen=True)
class _Packed:
    # Kept, so that no other tensor can come to lie where the packed one was.
    weight: torch.Tensor
    version: int
    matrices: tuple[torch.Tensor, ...]

    def is_of(self, weight: torch.Tensor) -> bool:
        same_place = self.weight.data_ptr() == weight.data_ptr()
        return same_place and self.version == weight._version


# Not in the module: it would be copied, pickled and moved with it, which blocks cannot be.
_packed = WeakTensorKeyDictionary()


def pack(weight_EOI: torch.Tensor) -> Sequence[torch.Tensor] | None:
    """Return the weight of every expert in blocks; it takes as much memory again.

    Kept until the weight changes, is gone or is trained (:func:`unpack`). A change in place through
    ``.data``, which torch does not count, is not seen before that.

    Args:
        weight_EOI: Parameter (E, O, I).

    Returns:
        E matrices, for :func:`espnet_moe_share.experts.few_rows.few_rows_linear` only. None where
        oneDNN does not multiply: another device or dtype; or where changes of the weight are not
        counted.
    """
    if not _HAS_REORDER or type(weight_EOI) is not torch.nn.Parameter:
        return None
    if weight_EOI.device.type != "cpu" or weight_EOI.dtype != torch.float32:
        return None
    if weight_EOI.is_inference() or torch.compiler.is_compiling():
        return None
    packed: _Packed | None = _packed.get(weight_EOI)
    if packed is None or not packed.is_of(weight_EOI):
        weight = weight_EOI.detach()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        matrices = tuple(reorder(matrix, None) for matrix in weight.unbind())
        packed = _packed[weight_EOI] = _Packed(weight, weight_EOI._version, matrices)
    return packed.matrices


def unpack(weight_EOI: torch.Tensor) -> None:
    """Forget the blocks, if there are any."""
    if not torch.compiler.is_compiling():
        _packed.pop(weight_EOI, None)
