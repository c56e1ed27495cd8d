"""Linear layers without gradient that are quick for the few rows that an expert gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

# The operator that torch.compile makes of linear layers in inference; not public.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_linear_pointwise = torch.ops.mkldnn._linear_pointwise.default if HAS_ONEDNN else None
# Below both, its start costs more than it saves.
LEAST_WEIGHTS = 1 << 16
_LEAST_PRODUCTS = 1 << 22
# It gets rows in multiples of the first, above so many of the second, and of a thirty-second to a
# sixteenth of larger numbers.
_ROWS, _FEW, _MORE_ROWS = 4, 64, 8
# w_1 (H, D), b_1 (H,), w_2 (D, H) and b_2 (D,); weights may be in oneDNN's blocks
Expert = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
# Number of a segment; first of the rows to multiply, how many; first of its own in these, how many
Rounded = tuple[int, int, int, int, int]
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
    least = _ROWS if rows <= _FEW else _MORE_ROWS
    step = max(least, 1 << max(0, (rows - 1).bit_length() - 5))
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
    fused = "none" if activation is None else _FUSED.get(type(activation), "none")
    y: torch.Tensor = _linear_pointwise(x, weight, bias, fused, [], "")  # type: ignore[misc]
    return y if activation is None or fused != "none" else activation(y)


def is_for_onednn(num_rows: int, x_SI: torch.Tensor, weight_EOI: torch.Tensor) -> bool:
    """Whether oneDNN is quicker at the products than MKL, torch's own choice.

    In float32 on a CPU (benchmarks/pieces.py), unless the products are small or there are none.

    Args:
        num_rows: S, of which S / E are an expert's.
        x_SI: Rows, of any number.
        weight_EOI: Weights (E, O, I).
    """
    if not HAS_ONEDNN or x_SI.device.type != "cpu" or num_rows == 0:
        return False
    if x_SI.dtype != torch.float32 or weight_EOI.dtype != torch.float32:
        return False
    num_experts = weight_EOI.size(0)
    numbers = weight_EOI.numel() // num_experts
    return numbers >= LEAST_WEIGHTS or num_rows // num_experts * numbers >= _LEAST_PRODUCTS


def sum_rows(x: torch.Tensor, rows_S: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    """Return sums of rows of ``x`` (..., I), without gradient; zero of none.

    In half the time, and less, that sums one by one take (benchmarks/pieces.py).

    Args:
        x: Rows.
        rows_S: Which of them to add up, those of one sum after those of the other (S,).
        ends: Where in ``rows_S`` each sum ends and the next one begins (E).

    Returns:
        (E, I).
    """
    offsets, mode_sum = torch.tensor([0, *ends], device=x.device), 0
    return torch.embedding_bag(x, rows_S, offsets, False, mode_sum, False, None, True)[0]


@dataclass(slots=True)
class Segments:
    """Consecutive rows, each segment of which has a matrix of its own; found once for a layer.

    Attributes:
        ends: Where each segment ends and the next one begins; the last is S.
        sizes: Number of rows of every segment.
        rounded: What oneDNN multiplies of the segments that are not empty; None: it does not.
    """

    ends: Sequence[int]
    sizes: list[int]
    rounded: list[Rounded] | None

    def linear(
        self, x_SI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply each segment of the rows (S, I) with its matrix, without gradient.

        Args:
            x_SI: Rows (S, I).
            weight_EOI: (E, O, I), in any order in memory.
            bias_EO: (E, O).

        Returns:
            (S, O).
        """
        weights = weight_EOI.unbind()
        biases = [None] * len(weights) if bias_EO is None else bias_EO.unbind()
        rounded = self.rounded
        if rounded is None:
            return torch.cat([F.linear(*one) for one in zip(self.split(x_SI), weights, biases)])
        pieces = _narrow(x_SI, rounded)
        products = [onednn_linear(x, weights[e], biases[e]) for x, (e, *_) in zip(pieces, rounded)]
        return _join(products, rounded)

    def split(self, x_SI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the segments of the rows (S, I)."""
        return x_SI.split(self.sizes)

    def sum(self, x_SI: torch.Tensor) -> torch.Tensor:
        """Return the sum of every segment's rows (E, I); zero of none."""
        return sum_rows(x_SI, torch.arange(x_SI.size(0), device=x_SI.device), self.ends)


def find_segments(ends: Sequence[int], x_SI: torch.Tensor, weight_EOI: torch.Tensor) -> Segments:
    """Return the segments of rows as they are to be multiplied.

    Args:
        ends: Where each segment ends and the next one begins; the last is S.
        x_SI: Rows, of the number, device and dtype of those to come.
        weight_EOI: Weights, likewise.
    """
    num_rows = ends[-1]
    sizes = [end - begin for begin, end in zip([0, *ends], ends)]
    if not is_for_onednn(num_rows, x_SI, weight_EOI):
        return Segments(ends, sizes, None)
    rounded = []
    begin = 0
    for number, end in enumerate(ends):
        if end > begin:
            first, last = rounded_segment(begin, end, num_rows)
            rounded.append((number, first, last - first, begin - first, end - begin))
            begin = end
    return Segments(ends, sizes, rounded)


def _narrow(x_SI: torch.Tensor, rounded: Sequence[Rounded]) -> list[torch.Tensor]:
    """Return the rows to multiply of every segment that is not empty.

    All at once, before the products: between them, when weights have driven everything else out of
    the caches, a line of Python takes several times as long.
    """
    return [x_SI.narrow(0, first, rows) for _, first, rows, _, _ in rounded]


def _join(products: Sequence[torch.Tensor], rounded: Sequence[Rounded]) -> torch.Tensor:
    """Return the products' own rows (S, O)."""
    return torch.cat([y.narrow(0, own, n) for y, (_, _, _, own, n) in zip(products, rounded)])


def feed_forward_segments(
    x_SD: torch.Tensor,
    segments: Segments,
    experts: Sequence[Expert],
    activation: torch.nn.Module,
) -> torch.Tensor:
    """Apply an expert to each segment of rows by oneDNN, without gradient and dropout.

    One expert after the other, so that its hidden rows may stay in cache.

    Args:
        x_SD: Rows (S, D).
        segments: Which are whose, for oneDNN.
        experts: Their weights.
        activation: Of the hidden rows.

    Returns:
        (S, D).
    """
    rounded = segments.rounded
    assert rounded is not None
    outputs = []
    for x, (e, *_) in zip(_narrow(x_SD, rounded), rounded):
        w_1, b_1, w_2, b_2 = experts[e]
        outputs.append(onednn_linear(onednn_linear(x, w_1, b_1, activation), w_2, b_2))
    return _join(outputs, rounded)
