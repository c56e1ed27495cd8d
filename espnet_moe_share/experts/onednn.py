"""Linear layers without gradient by oneDNN, which is quick for the few rows that an expert gets."""

import torch

# The operator that torch.compile makes of linear layers in inference; not public.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_linear_pointwise = torch.ops.mkldnn._linear_pointwise.default if HAS_ONEDNN else None
# With vectors of 512 bits oneDNN is ahead of MKL also where it has to arrange a weight first, and
# applies activations for next to nothing; with 256 neither (benchmarks/pieces.py).
HAS_WIDE_VECTORS = "AVX512" in torch.backends.cpu.get_cpu_capability()
# Below both, its start costs more than it saves.
LEAST_WEIGHTS = 1 << 16
_LEAST_PRODUCTS = 1 << 22
# It gets rows in multiples of the first, above so many of the second, and of a thirty-second to a
# sixteenth of larger numbers.
_ROWS, _FEW, _MORE_ROWS = 4, 64, 8
# With vectors of 256 bits its activations take longer than torch's, but a call less.
_FEW_TO_FUSE = 32
# Activations that it applies while it writes the result.
_FUSED: dict[type, str] = {torch.nn.SiLU: "swish", torch.nn.ReLU: "relu"}


def round_up(num_rows: int) -> int:
    """Return the number of rows to multiply in place of ``num_rows``.

    oneDNN makes a program for every number of rows that it meets, which takes longer than a product
    of few rows does, and keeps half a megabyte for it (benchmarks/new_rows.py). Experts get other
    numbers every time; rounded up, nearly all have been met before.
    """
    least = _ROWS if num_rows <= _FEW else _MORE_ROWS
    step = max(least, 1 << max(0, (num_rows - 1).bit_length() - 5))
    return -(-num_rows // step) * step


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
    fused = "none"
    if activation is not None and (HAS_WIDE_VECTORS or x.size(0) <= _FEW_TO_FUSE):
        fused = _FUSED.get(type(activation), "none")
    y: torch.Tensor = _linear_pointwise(x, weight, bias, fused, [], "")  # type: ignore[misc]
    return y if activation is None or fused != "none" else apply_in_place(activation, y)


def apply_in_place(activation: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the activation of ``x``, whose memory it may take, without gradient."""
    if type(activation) is torch.nn.SiLU:
        return torch.nn.functional.silu(x, inplace=True)
    y: torch.Tensor = activation(x)
    return y


def is_for_onednn(num_rows: int, x_SI: torch.Tensor, weight_EOI: torch.Tensor) -> bool:
    """Whether oneDNN is quicker than MKL, torch's own choice, at products with plain matrices.

    In float32 on a CPU with wide vectors (benchmarks/pieces.py), unless the products are small or
    there are none.

    Args:
        num_rows: S, of which S / E are an expert's.
        x_SI: Rows, of any number.
        weight_EOI: Weights (E, O, I).
    """
    if not HAS_ONEDNN or not HAS_WIDE_VECTORS or x_SI.device.type != "cpu" or num_rows == 0:
        return False
    if x_SI.dtype != torch.float32 or weight_EOI.dtype != torch.float32:
        return False
    num_experts = weight_EOI.size(0)
    numbers = weight_EOI.numel() // num_experts
    return numbers >= LEAST_WEIGHTS or num_rows // num_experts * numbers >= _LEAST_PRODUCTS
