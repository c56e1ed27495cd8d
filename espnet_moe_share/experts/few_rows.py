"""Linear layers without gradient that are quick for the few rows that an expert gets."""

import torch
from torch.nn import functional as F

# The operator that torch.compile makes of linear layers in inference; not public.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Below both, its start costs more than it saves.
LEAST_WEIGHTS = 1 << 16
_LEAST_PRODUCTS = 1 << 22
# It gets rows in multiples of this, and of a thirty-second to a sixteenth of larger numbers.
_ROWS = 4
# Activations that it applies while it writes the result.
_FUSED: dict[type, str] = {torch.nn.SiLU: "swish", torch.nn.ReLU: "relu"}


def rounded_segment(begin: int, end: int, size: int) -> tuple[int, int]:
    """Return begin and end of a segment with some of its neighbours' rows.

    oneDNN makes a program for every number of rows that it meets, which takes longer than a product
    of few rows does, and keeps half a megabyte for it (benchmarks/new_rows.py). Experts get other
    numbers every time; rounded up, nearly all have been met before.

    Args:
        begin: First row of the segment.
        end: Behind its last, above ``begin``.
        size: Number of rows that there are, S.
    """
    rows = end - begin
    step = max(_ROWS, 1 << max(0, (rows - 1).bit_length() - 5))
    rounded = min(-(-rows // step) * step, size)
    first = min(begin, size - rounded)
    return first, first + rounded


def onednn_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: torch.nn.Module | None = None,
) -> torch.Tensor:
    """What ``torch.nn.functional.linear`` gives, and the activation of it.

    Args:
        x: Rows (S, I) in float32 on a CPU.
        weight: (O, I), in any order in memory or in oneDNN's blocks.
        bias: (O,).
        activation: Of the result; None: there is none.

    Returns:
        (S, O).
    """
    fused = _FUSED.get(type(activation), "none")
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused, [], "")
    return y if activation is None or fused != "none" else activation(y)


def segment_to_multiply(
    x_SI: torch.Tensor, begin: int, end: int, weight: torch.Tensor
) -> tuple[int, int]:
    """Return the segment that :func:`few_rows_linear` multiplies for the one from begin to end."""
    if not HAS_ONEDNN or not _is_worth_it(x_SI, end - begin, weight):
        return begin, end
    return rounded_segment(begin, end, x_SI.size(0))


def few_rows_linear(
    x_SI: torch.Tensor,
    begin: int,
    end: int,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply a segment of rows.

    In float32 on a CPU by oneDNN, which is quicker at it than MKL, torch's own choice
    (benchmarks/pieces.py).

    Args:
        x_SI: Rows (S, I).
        begin: First of the segment.
        end: Behind its last.
        weight: (O, I), in any order in memory.
        bias: (O,).

    Returns:
        (end - begin, O).
    """
    if not HAS_ONEDNN or not _is_worth_it(x_SI, end - begin, weight):
        return F.linear(x_SI[begin:end], weight, bias)
    first, last = rounded_segment(begin, end, x_SI.size(0))
    return onednn_linear(x_SI[first:last], weight, bias)[begin - first : end - first]


def _is_worth_it(x: torch.Tensor, rows: int, weight: torch.Tensor) -> bool:
    if not (x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"):
        return False
    large = weight.numel() >= LEAST_WEIGHTS or rows * weight.numel() >= _LEAST_PRODUCTS
    return rows > 0 and large
