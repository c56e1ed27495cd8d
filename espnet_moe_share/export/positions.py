"""Positional encodings that are computed for the utterance at hand, not cut from a table."""

import math

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    PositionalEncoding,
    RelPositionalEncoding,
)

_LONGEST_PERIOD = 10000.0  # Vaswani et al. 2017, section 3.5


def _sinusoids(positions_T: torch.Tensor, size: int) -> torch.Tensor:
    """Sines at even, cosines at odd places (1, T, D); Vaswani et al. 2017, section 3.5."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32)
    rates = torch.exp(exponents * -(math.log(_LONGEST_PERIOD) / size))
    angles = positions_T.unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).unsqueeze(0)


def compute_positions_in_graph(model: torch.nn.Module) -> None:
    """Have ESPnet's positional encodings make their table anew in every call.

    As they are, their table of 5000 positions would be a constant of the exported graph, larger
    than a small model, and end with the longest utterance that it has room for.

    Args:
        model: Changed in place.
    """
    for module in model.modules():
        if isinstance(module, (PositionalEncoding, RelPositionalEncoding)):
            _compute_in_graph(module)


def _compute_in_graph(module: torch.nn.Module) -> None:
    relative = isinstance(module, RelPositionalEncoding)
    # ESPnet's older relative encoding counts down from the last place of its table, whatever the
    # utterance's length.
    last = module.pe.size(1) - 1 if getattr(module, "reverse", False) else None  # type: ignore[union-attr, operator]

    def extend_pe(x_BTD: torch.Tensor) -> None:
        length = x_BTD.size(1)
        if relative:  # from length - 1 down to 1 - length
            positions = (length - 1) - torch.arange(2 * length - 1, dtype=torch.float32)
        elif last is not None:
            positions = last - torch.arange(length, dtype=torch.float32)
        else:
            positions = torch.arange(length, dtype=torch.float32)
        module.pe = _sinusoids(positions, module.d_model)  # type: ignore[assignment, arg-type]

    module.extend_pe = extend_pe  # type: ignore[assignment]
