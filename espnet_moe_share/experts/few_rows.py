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
# Activations that it applies while it writes the result.
_FUSED: dict[type, str] = {torch.nn.SiLU: "swish", torch.nn.ReLU: "relu"}


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
    if _HAS_ONEDNN and _is_worth_it(x, weight):
        fused = _FUSED.get(type(activation), "none")
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, weight if packed is None else packed, bias, fused, [], ""
        )
        return y if activation is None or fused != "none" else activation(y)
    y = F.linear(x, weight, bias)
    return y if activation is None else activation(y)


def _is_worth_it(x: torch.Tensor, weight: torch.Tensor) -> bool:
    if not (x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"):
        return False
    rows = x.size(0)
    large = weight.numel() >= _LEAST_WEIGHTS or rows * weight.numel() >= _LEAST_PRODUCTS
    return rows > 0 and large
