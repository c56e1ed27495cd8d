"""A linear layer whose weight is a product of two thin factors."""

import torch


class LowRankLinear(torch.nn.Module):
    """y = U (V x) + b in place of y = W x + b, for a linear layer or a 1x1 convolution.

    M outputs, N inputs, R rank. V is ``down.weight`` (R, N), U is ``up.weight`` (M, R), each with
    a last dimension of 1 for a convolution; b is ``up.bias``. Instead of M N weights there are
    R (M + N), and as many multiply-accumulates per frame: both are fewer if R < M N / (M + N).

    Hernandez et al. 2023 (ICASSP, "Sharing Low Rank Conformer Weights for Tiny Always-On Ambient
    Speech Recognition Models") share parts of such weights across layers. The factors are
    modules of their own, so that sharing rules can name them: ``self_attn.linear_q.up``.

    Args:
        dense: The layer to replace, a ``Linear`` or a ``Conv1d`` of kernel 1; its bias is kept.
        rank: R, from 1 to min(M, N).
    """

    def __init__(self, dense: torch.nn.Linear | torch.nn.Conv1d, rank: int) -> None:
        super().__init__()
        outputs, inputs = dense.weight.shape[:2]
        self.down: torch.nn.Linear | torch.nn.Conv1d
        self.up: torch.nn.Linear | torch.nn.Conv1d
        if isinstance(dense, torch.nn.Conv1d):
            self.down = torch.nn.Conv1d(inputs, rank, 1, bias=False)
            self.up = torch.nn.Conv1d(rank, outputs, 1)
        else:
            self.down = torch.nn.Linear(inputs, rank, bias=False)
            self.up = torch.nn.Linear(rank, outputs)
        self.up.bias = dense.bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both factors anew, so that U V has the variance of ``torch.nn.Linear``'s weight.

        That is 1 / (3 N). An element of U V is a sum of R products, so its variance is
        R Var(U) Var(V): V is drawn as a linear layer of N inputs is, Var(V) = 1 / (3 N), and U
        uniformly with Var(U) = 1 / R. The bias stays as it is.
        """
        rank, inputs = self.down.weight.shape[:2]
        torch.nn.init.uniform_(self.down.weight, -(inputs**-0.5), inputs**-0.5)
        torch.nn.init.uniform_(self.up.weight, -((3 / rank) ** 0.5), (3 / rank) ** 0.5)

    def espnet_initialization_fn(self) -> None:
        """Called by ESPnet's ``init: xavier_uniform`` and the like.

        Those would give each factor the variance of a full weight, and the product another one.
        """
        self.reset_parameters()

    @property
    def weight(self) -> torch.Tensor:
        """The product U V, in the shape of the replaced layer's weight: (M, N) or (M, N, 1)."""
        up, down = self.up.weight, self.down.weight
        return (up.flatten(1) @ down.flatten(1)).view(up.size(0), *down.shape[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both factors.

        Args:
            x: Input (..., N); for a convolution (B, N, T).

        Returns:
            Output (..., M); for a convolution (B, M, T).
        """
        return self.up(self.down(x))
