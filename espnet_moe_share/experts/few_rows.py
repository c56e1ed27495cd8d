"""Linear layers without gradient that are quick for the few rows that an expert gets."""

from functools import cache

import torch
from torch.nn import functional as F


@cache
def _has_onednn() -> bool:
    # The operator that torch.compile makes of linear layers in inference; not public.
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def few_rows_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``torch.nn.functional.linear`` gives, without gradient.

    In float32 on a CPU by oneDNN, where torch itself would take MKL, which multiplies 20 to 250
    rows by a weight at half to three quarters of that speed (AMD Zen 4; benchmarks/README.md).

    Args:
        x: Rows (S, I).
        weight: (O, I), in any order in memory.
        bias: (O,).

    Returns:
        (S, O).
    """
    dtypes = {x.dtype, weight.dtype}
    if x.device.type == "cpu" and dtypes == {torch.float32} and x.size(0) and _has_onednn():
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)
