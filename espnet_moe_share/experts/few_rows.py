"""Linear layers without gradient that are quick for the few rows that an expert gets."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

# The operator that torch.compile makes of linear layers in inference; not public.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_linear_pointwise = torch.ops.mkldnn._linear_pointwise.default if HAS_ONEDNN else None
# Below both, its start costs more than it saves.
LEAST_WEIGHTS = 1 << 16
_LEAST_PRODUCTS = 1 << 22
# It gets rows in multiples of this, and of a thirty-second to a sixteenth of larger numbers.
_ROWS = 4
# w_1 (H, D), b_1 (H,), w_2 (D, H) and b_2 (D,); w_1 may be in oneDNN's blocks
Expert = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
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
    y: torch.Tensor = _linear_pointwise(x, weight, bias, fused, [], "")  # type: ignore[misc]
    return y if activation is None or fused != "none" else activation(y)


def is_for_onednn(x_SI: torch.Tensor, weight_EOI: torch.Tensor) -> bool:
    """Whether oneDNN is quicker at the products than MKL, torch's own choice.

    In float32 on a CPU (benchmarks/pieces.py), unless the products are small or there are none.

    Args:
        x_SI: Rows (S, I), S / E of them an expert's.
        weight_EOI: Weights (E, O, I).
    """
    num_rows = x_SI.size(0)
    if not HAS_ONEDNN or x_SI.device.type != "cpu" or num_rows == 0:
        return False
    if x_SI.dtype != torch.float32 or weight_EOI.dtype != torch.float32:
        return False
    num_experts = weight_EOI.size(0)
    numbers = weight_EOI.numel() // num_experts
    return numbers >= LEAST_WEIGHTS or num_rows // num_experts * numbers >= _LEAST_PRODUCTS


def split_rows(x_SI: torch.Tensor, ends: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Return the segments of the rows (S, I) that end there."""
    return x_SI.split([end - begin for begin, end in zip([0, *ends], ends)])


def _rounded_segments(
    x_SI: torch.Tensor, ends: Sequence[int]
) -> list[tuple[int, torch.Tensor, slice]]:
    """Return number, rows to multiply, and which of them are its own, of segments with rows.

    All at once, before the products: between them, when weights have driven everything else out of
    the caches, a line of Python takes several times as long.
    """
    segments = []
    begin = 0
    for number, end in enumerate(ends):
        if end > begin:
            first, last = rounded_segment(begin, end, x_SI.size(0))
            segments.append((number, x_SI[first:last], slice(begin - first, end - first)))
            begin = end
    return segments


def linear_segments(
    x_SI: torch.Tensor,
    ends: Sequence[int],
    weight_EOI: torch.Tensor,
    bias_EO: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply each segment of rows with a matrix of its own, without gradient.

    Args:
        x_SI: Rows (S, I).
        ends: Where each segment ends and the next one begins; the last is S.
        weight_EOI: (E, O, I), in any order in memory.
        bias_EO: (E, O).

    Returns:
        (S, O).
    """
    weights = weight_EOI.unbind()
    biases = [None] * len(weights) if bias_EO is None else bias_EO.unbind()
    if not is_for_onednn(x_SI, weight_EOI):
        return torch.cat([F.linear(*one) for one in zip(split_rows(x_SI, ends), weights, biases)])
    segments = _rounded_segments(x_SI, ends)
    products = [onednn_linear(x, weights[e], biases[e]) for e, x, _ in segments]
    return torch.cat([y[own] for y, (_, _, own) in zip(products, segments)])


def feed_forward_segments(
    x_SD: torch.Tensor,
    ends: Sequence[int],
    experts: Sequence[Expert],
    activation: torch.nn.Module,
) -> torch.Tensor:
    """Apply an expert to each segment of rows by oneDNN, without gradient and dropout.

    One expert after the other, so that its hidden rows may stay in cache.

    Args:
        x_SD: Rows (S, D) for which :func:`is_for_onednn` is true.
        ends: Where each segment ends and the next one begins; the last is S.
        experts: Their weights.
        activation: Of the hidden rows.

    Returns:
        (S, D).
    """
    segments = _rounded_segments(x_SD, ends)
    outputs = []
    for e, x, _ in segments:
        w_1, b_1, w_2, b_2 = experts[e]
        outputs.append(onednn_linear(onednn_linear(x, w_1, b_1, activation), w_2, b_2))
    return torch.cat([y[own] for y, (_, _, own) in zip(outputs, segments)])
