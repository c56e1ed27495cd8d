"""Linear layers without gradient that are quick for the few rows that an expert gets."""

import torch
from torch.nn import functional as F

# The operator that torch.compile makes of linear layers in inference; not public.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
# Below both, its start costs more than it saves.
_LEAST_WEIGHTS = 1 << 16
_LEAST_PRODUCTS = 1 << 22
# It gets rows in multiples of this, and of a sixteenth to an eighth of larger numbers.
_ROWS = 4
# Activations that it applies while it writes the result.
_FUSED: dict[type, str] = {torch.nn.SiLU: "swish", torch.nn.ReLU: "relu"}


def segment_of(
    x_SI: torch.Tensor, begin: int, end: int, weight: torch.Tensor
) -> tuple[torch.Tensor, slice]:
    """Return a segment's rows for :func:`few_rows_linear`, with some of the neighbours' if useful.

    oneDNN makes a program for every number of rows that it meets, which takes longer than a product
    of few rows does, and keeps half a megabyte for it (benchmarks/new_rows.py). Experts get other
    numbers every time; rounded up, nearly all have been met before.

    Args:
        x_SI: Rows (S, I).
        begin: First of the segment.
        end: Behind its last.
        weight: (O, I), what the rows will be multiplied with.

    Returns:
        Rows (R, I), R from ``end - begin`` to S, and where among them the segment is.
    """
    rows, size = end - begin, x_SI.size(0)
    if not _HAS_ONEDNN or not _is_worth_it(x_SI, rows, weight):
        return x_SI[begin:end], slice(0, rows)
    step = max(_ROWS, 1 << max(0, (rows - 1).bit_length() - 4))
    rounded = min(-(-rows // step) * step, size)
    first = min(begin, size - rounded)
    return x_SI[first : first + rounded], slice(begin - first, end - first)


def few_rows_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: torch.nn.Module | None = None,
    packed: torch.Tensor | None = None,
) -> torch.Tensor:
    """What ``torch.nn.functional.linear`` gives, without gradient.

    In float32 on a CPU by oneDNN, which is quicker at it than MKL, torch's own choice
    (benchmarks/pieces.py).

    Args:
        x: Rows (S, I).
        weight: (O, I), in any order in memory.
        bias: (O,).
        activation: Of the result; None: there is none.
        packed: The same weight as :func:`espnet_moe_share.experts.packed_weights.pack` gave it.

    Returns:
        (S, O).
    """
    if _HAS_ONEDNN and _is_worth_it(x, x.size(0), weight):
        fused = _FUSED.get(type(activation), "none")
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, weight if packed is None else packed, bias, fused, [], ""
        )
        return y if activation is None or fused != "none" else activation(y)
    y = F.linear(x, weight, bias)
    return y if activation is None else activation(y)


def _is_worth_it(x: torch.Tensor, rows: int, weight: torch.Tensor) -> bool:
    if not (x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"):
        return False
    large = weight.numel() >= _LEAST_WEIGHTS or rows * weight.numel() >= _LEAST_PRODUCTS
    return rows > 0 and large
