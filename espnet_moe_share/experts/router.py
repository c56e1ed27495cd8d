"""The router: which experts see a frame, and with which weight."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional as F


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    # nothing to do costs less than a tenth of doing nothing
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


class TopKRouter(torch.nn.Module):
    """Linear router with softmax over all experts and a choice of the ``top_k`` likeliest.

    It computes in float32 (float64 for float64 input) also under autocast: in half precision,
    ties and overflow in the softmax make choices unstable (Fedus et al. 2022, Switch
    Transformers, section 2.4). There is no noise (same input, same choice), unless ``jitter``
    multiplies every element of the input by a factor from [1 - jitter, 1 + jitter] in training
    (same section).

    A router with other logits is a subclass with another :meth:`logits`
    (:func:`espnet_moe_share.registry.register_router`).

    With top_k = 1 the gate is the raw probability, which is what gives the router a gradient
    from the task (Switch Transformers, formula 2); with more, the chosen probabilities are
    divided by their sum (Lepikhin et al. 2021, GShard, algorithm 1).

    Args:
        size: D, of what the router sees: the expert layer's input, and what comes before it.
        num_experts: E.
        top_k: K.
        jitter: 0 to 1; 0 draws no random numbers.
    """

    def __init__(self, size: int, num_experts: int, top_k: int, jitter: float = 0.0) -> None:
        super().__init__()
        self.top_k = top_k
        self.jitter = jitter
        self.weight = torch.nn.Parameter(torch.empty(num_experts, size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal with variance 0.1 / D (Switch Transformers, section 2.4)."""
        std = (0.1 / self.weight.size(1)) ** 0.5
        torch.nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def logits(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits of all experts (N, E).

        Args:
            x_ND: Frames (N, D) in float32 or float64, with jitter; autocast is off.
        """
        return F.linear(x_ND, self.weight.to(x_ND.dtype))

    def forward(
        self, x_ND: torch.Tensor, bias_E: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose experts.

        Args:
            x_ND: Frames (N, D).
            bias_E: Added to the probabilities for the choice, not for the gates (E,).

        Returns:
            Router logits (N, E) in float32 or float64; the probabilities that they stand for
            (N, E); numbers of the chosen experts (N, K), best first; their gates (N, K), in the
            dtype of the logits.
        """
        with _no_autocast(x_ND.device.type):
            if x_ND.dtype not in (torch.float32, torch.float64):
                x_ND = x_ND.float()
            if self.training and self.jitter > 0:
                x_ND = x_ND * torch.empty_like(x_ND).uniform_(1 - self.jitter, 1 + self.jitter)
            logits_NE = self.logits(x_ND)
            p_NE = logits_NE.softmax(dim=-1)
            scores_NE = p_NE if bias_E is None else p_NE + bias_E
            if self.top_k == 1:
                gates_NK, expert_ids_NK = scores_NE.max(dim=-1, keepdim=True)
            else:
                gates_NK, expert_ids_NK = scores_NE.topk(self.top_k, dim=-1)
            if bias_E is not None:
                gates_NK = p_NE.gather(-1, expert_ids_NK)
            if self.top_k > 1:
                gates_NK = gates_NK / gates_NK.sum(dim=-1, keepdim=True)
        return logits_NE, p_NE, expert_ids_NK, gates_NK


# What `experts` knows as `router`; others come by espnet_moe_share.registry.register_router.
ROUTERS: dict[str, type[TopKRouter]] = {"linear": TopKRouter}
