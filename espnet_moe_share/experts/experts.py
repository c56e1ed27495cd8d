"""The experts: feed-forward networks with stacked weights."""

import torch
from torch.nn import functional as F


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
        activation: Activation module.
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
        self.w_2 = torch.nn.Parameter(torch.empty(num_experts, size, hidden_units))
        self.b_2 = torch.nn.Parameter(torch.empty(num_experts, size))
        self.dropout = dropout
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each expert as ``torch.nn.Linear`` does: uniform within 1 / sqrt(fan in)."""
        for weight, bias in ((self.w_1, self.b_1), (self.w_2, self.b_2)):
            bound = weight.size(-1) ** -0.5
            torch.nn.init.uniform_(weight, -bound, bound)
            torch.nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_ND: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
        """Apply expert e to its own rows.

        Args:
            x_ND: Frames (N, D), those of expert 0 first, then those of expert 1, and so on.
            counts_E: Number of frames of each expert (E,); their sum is N.

        Returns:
            Outputs (N, D), in the order of the input.
        """
        # unbind instead of w_1[e]: the gradient of an index is a zero tensor of the full
        # (E, H, D) size for every expert.
        experts = zip(
            x_ND.split(counts_E.tolist()),
            self.w_1.unbind(),
            self.b_1.unbind(),
            self.w_2.unbind(),
            self.b_2.unbind(),
        )
        return torch.cat(
            [
                F.linear(self.dropout(self.activation(F.linear(x, w_1, b_1))), w_2, b_2)
                for x, w_1, b_1, w_2, b_2 in experts
            ]
        )

    def all_of_them(self, x_ND: torch.Tensor, gates_NE: torch.Tensor) -> torch.Tensor:
        """Apply every expert to every row, and add up what they say by their gates.

        Args:
            x_ND: Frames (N, D).
            gates_NE: Weight of each expert (N, E); 0 where a frame has not chosen it.

        Returns:
            Outputs (N, D).
        """
        # One product for all experts' hidden units, and one back, which also sums over experts.
        gates_NE = gates_NE.to(x_ND.dtype)
        h_NEH = F.linear(x_ND, self.w_1.flatten(0, 1), self.b_1.flatten())
        h_NEH = self.dropout(self.activation(h_NEH)).unflatten(1, self.b_1.shape)
        w_2 = self.w_2.transpose(0, 1).flatten(1)
        return F.linear((h_NEH * gates_NE.unsqueeze(-1)).flatten(1), w_2) + gates_NE @ self.b_2
