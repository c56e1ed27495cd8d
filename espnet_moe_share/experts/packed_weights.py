"""Experts in inference, with weights in the blocks that oneDNN multiplies.

A product with a plain matrix arranges the matrix in blocks first, or reads it across its rows,
which for the few rows that an expert gets takes as long as the product (benchmarks/pieces.py). In
inference the matrices stay what they are, so that the blocks are kept, and layers that share
experts share the blocks, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from espnet_moe_share.experts.experts import ExpertWeights
from espnet_moe_share.experts.onednn import HAS_ONEDNN, LEAST_WEIGHTS

# The operator by which torch.compile prepares linear layers for inference; not public.
_HAS_REORDER = HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
# Numbers that a copy has room for beside a matrix, as blocks begin at multiples of 64 bytes.
_SLACK = 1024


@dataclass
class _Packed:
    # Kept, so that no other tensor can come to lie where the packed one was.
    weight: torch.Tensor
    state: tuple[int, int]
    matrices: tuple[torch.Tensor, ...]


@dataclass
class _Experts:
    state: tuple[int, ...]
    packed: tuple[_Packed, _Packed]  # kept, likewise
    experts: tuple[ExpertWeights, ...]


# Not in the module: they would be copied, pickled and moved with it, which blocks cannot be.
_packed = WeakTensorKeyDictionary()  # by weight
_experts = WeakTensorKeyDictionary()  # by first weight, which layers may share alone


def can_pack(weight_EOI: torch.Tensor) -> bool:
    """Whether it is a large Parameter in float32 whose changes torch counts."""
    if not _HAS_REORDER or type(weight_EOI) is not torch.nn.Parameter:
        return False
    if weight_EOI.device.type != "cpu" or weight_EOI.dtype != torch.float32:
        return False
    return (
        weight_EOI.numel() >= LEAST_WEIGHTS * weight_EOI.size(0) and not weight_EOI.is_inference()
    )


def pack(
    w_1: torch.Tensor, b_1: torch.Tensor, w_2: torch.Tensor, b_2: torch.Tensor
) -> Sequence[ExpertWeights] | None:
    """Return the experts one by one, with weights in blocks; they take as much memory again.

    Kept until a weight changes, is gone or is trained (:func:`unpack`). A change in place through
    ``.data``, which torch does not count, is not seen before that.

    Args:
        w_1: Parameter (E, H, D).
        b_1: (E, H).
        w_2: Parameter (E, D, H), in any order in memory.
        b_2: (E, D).

    Returns:
        For :func:`.onednn.onednn_linear`. None where oneDNN does not multiply (another
        device or dtype) or gains nothing (small weights), or where changes of a weight are not
        counted.
    """
    if torch.compiler.is_compiling():
        return None
    # This is asked in every call, so with as little as will do.
    found: _Experts | None = _experts.get(w_1)
    if found is None or found.state != _state(w_1, b_1, w_2, b_2):
        if not (can_pack(w_1) and can_pack(w_2)):
            return None
        packed = _pack_one(w_1), _pack_one(w_2)
        biases = [bias.detach().unbind() for bias in (b_1, b_2)]
        experts = tuple(zip(packed[0].matrices, biases[0], packed[1].matrices, biases[1]))
        found = _experts[w_1] = _Experts(_state(w_1, b_1, w_2, b_2), packed, experts)
    return found.experts


def _state(
    w_1: torch.Tensor, b_1: torch.Tensor, w_2: torch.Tensor, b_2: torch.Tensor
) -> tuple[int, ...]:
    """What tells whether blocks, and views of biases, are still theirs."""
    weights = (w_1._version, w_1.data_ptr(), w_2._version, w_2.data_ptr())
    return (*weights, b_1.data_ptr(), b_2.data_ptr())


def _pack_one(parameter_EOI: torch.Tensor) -> _Packed:
    packed: _Packed | None = _packed.get(parameter_EOI)
    state = (parameter_EOI._version, parameter_EOI.data_ptr())
    if packed is None or packed.state != state:
        weight = parameter_EOI.detach()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        matrices = tuple(reorder(matrix, None) for matrix in _by_rows(weight))
        packed = _packed[parameter_EOI] = _Packed(weight, state, matrices)
    return packed


def _by_rows(weight_EOI: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the matrices with their rows side by side in memory; one is gone with the next.

    oneDNN would make these copies itself, and each would leave a hole in the heap, a few bytes too
    small for the blocks of the next matrix.
    """
    matrix = weight_EOI[0]
    if matrix.is_contiguous():
        yield from weight_EOI.unbind()
        return
    space = matrix.new_empty(matrix.numel() + _SLACK)[: matrix.numel()].view_as(matrix)
    for matrix in weight_EOI.unbind():
        yield space.copy_(matrix)


def unpack(w_1: torch.Tensor, w_2: torch.Tensor) -> None:
    """Forget the blocks, if there are any."""
    # asked in every training step, most of which have none
    if not torch.compiler.is_compiling() and _packed:
        _experts.pop(w_1, None)
        for weight in (w_1, w_2):
            _packed.pop(weight, None)
