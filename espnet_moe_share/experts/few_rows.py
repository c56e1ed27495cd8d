"""Linear layers without gradient that are quick for the few rows that an expert gets."""

import torch
from torch.nn import functional as F

# The operator that torch.compile makes of linear layers in inference; not public.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
# Multiplications below which its start costs more than it saves.
_LEAST_PRODUCTS = 1 << 22


def few_rows_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``torch.nn.functional.linear`` gives, without gradient.

    In float32 on a CPU by oneDNN, which is quicker at it than MKL, torch's own choice
    (benchmarks/pieces.py).

    Args:
        x: Rows (S, I).
        weight: (O, I), in any order in memory.
        bias: (O,).

    Returns:
        (S, O).
    """
    is_float32 = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if _HAS_ONEDNN and is_float32 and x.size(0) * weight.numel() >= _LEAST_PRODUCTS:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)
