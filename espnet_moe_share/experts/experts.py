"""The experts: feed-forward networks with stacked weights."""

from collections.abc import Iterator

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from torch.nn import functional as F

# w_1, b_1, w_2, b_2 of one expert
ExpertWeights = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class StackedExperts(torch.nn.Module):
    """E feed-forward networks of the form of ESPnet's PositionwiseFeedForward.

    The weights of all experts are one tensor each. An expert that gets no frame still gets a
    (zero) gradient, without which distributed training stops ("parameters that were not used"),
    and one optimiser step updates all experts at once.

    Args:
        num_experts: E.
        size: D.
        hidden_units: H.
        dropout: Dropout module applied to hidden activations.
        activation: Activation module. ESPnet's Swish is replaced by torch's SiLU, the same function
            in one step, which keeps one tensor for the backward pass instead of three.
    """

    def __init__(
        self,
        num_experts: int,
        size: int,
        hidden_units: int,
        dropout: torch.nn.Module,
        activation: torch.nn.Module,
    ) -> None:
        super().__init__()
        self.w_1 = torch.nn.Parameter(torch.empty(num_experts, hidden_units, size))
        self.b_1 = torch.nn.Parameter(torch.empty(num_experts, hidden_units))
        # Of this shape, but each expert by columns in memory: its gradient takes MKL a fraction of
        # the time then (benchmarks/pieces.py). Nothing breaks where that is lost.
        self.w_2 = torch.nn.Parameter(torch.empty(num_experts, hidden_units, size).mT)
        self.b_2 = torch.nn.Parameter(torch.empty(num_experts, size))
        self.dropout = dropout
        self.activation = torch.nn.SiLU() if isinstance(activation, Swish) else activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each expert as ``torch.nn.Linear`` does: uniform within 1 / sqrt(fan in)."""
        for weight, bias in ((self.w_1, self.b_1), (self.w_2, self.b_2)):
            bound = weight.size(-1) ** -0.5
            torch.nn.init.uniform_(weight, -bound, bound)
            torch.nn.init.uniform_(bias, -bound, bound)

    def unbind(self) -> Iterator[ExpertWeights]:
        """Yield ``w_1`` (H, D), ``b_1`` (H,), ``w_2`` (D, H) and ``b_2`` (D,) of every expert.

        By unbind instead of ``w_1[e]``: the gradient of an index is a zero tensor of the full
        (E, H, D) size for every expert.
        """
        return zip(self.w_1.unbind(), self.b_1.unbind(), self.w_2.unbind(), self.b_2.unbind())

    def apply_one(self, x_ND: torch.Tensor, weights: ExpertWeights) -> torch.Tensor:
        """Apply one expert to frames.

        Args:
            x_ND: Frames (N, D).
            weights: As :meth:`unbind` yields them.

        Returns:
            (N, D).
        """
        w_1, b_1, w_2, b_2 = weights
        hidden_NH = self.activation(F.linear(x_ND, w_1, b_1))
        if self.training:
            hidden_NH = self.dropout(hidden_NH)
        return F.linear(hidden_NH, w_2, b_2)
