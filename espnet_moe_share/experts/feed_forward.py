"""The expert layer: router, dispatch, experts and combination."""

import torch

from espnet_moe_share.experts.capacity import expert_capacity, over_capacity
from espnet_moe_share.experts.expert_bias import ExpertBias
from espnet_moe_share.experts.experts import StackedExperts
from espnet_moe_share.experts.router import TopKRouter
from espnet_moe_share.experts.routing import Routing


class MixtureOfExperts(torch.nn.Module):
    """Drop-in for ESPnet's PositionwiseFeedForward: y = sum over the top k of gate * expert(x).

    Shazeer et al. 2017 (sparsely-gated mixture of experts), as Bai et al. 2022 (Interspeech,
    "Parameter-Efficient Conformers via Sharing Sparsely-Gated Experts") put it into the second
    feed-forward of a Conformer block. In inference no frame is ever dropped for want of capacity:
    which ones are would depend on the other utterances of the batch.

    ESPnet's layers call a feed-forward with nothing but its input, so that what is padding and what
    else the router sees must come by another way: ``frame_mask`` and ``embedding`` are set just
    before the call and used up by it.

    Attributes:
        frame_mask: Bool (B, 1, T) or (B, T), True on frames that are not padding; None: all.
        embedding: (B, T, De), what the router sees before x; None if ``embedding_size`` is 0.
        recorder: List that every call appends its :class:`Routing` to; None: nothing is kept.

    Args:
        size: D.
        hidden_units: H, of each expert.
        dropout: Dropout module for hidden activations.
        activation: Activation module.
        num_experts: E.
        top_k: K.
        capacity_factor: Limit of what an expert takes in a training step; None: no limit.
        jitter: Of the router's input, in training.
        bias_update_rate: Of loss-free balancing; 0: the layer has no bias.
        embedding_size: De, width of ``embedding``.
    """

    def __init__(
        self,
        size: int,
        hidden_units: int,
        dropout: torch.nn.Module,
        activation: torch.nn.Module,
        num_experts: int,
        top_k: int,
        capacity_factor: float | None = None,
        jitter: float = 0.0,
        bias_update_rate: float = 0.0,
        embedding_size: int = 0,
    ) -> None:
        super().__init__()
        self.capacity_factor = capacity_factor
        self.router = TopKRouter(embedding_size + size, num_experts, top_k, jitter)
        self.expert_bias = (
            ExpertBias(num_experts, bias_update_rate) if bias_update_rate > 0 else None
        )
        self.experts = StackedExperts(num_experts, size, hidden_units, dropout, activation)
        self.frame_mask: torch.Tensor | None = None
        self.embedding: torch.Tensor | None = None
        self.recorder: list[Routing] | None = None

    def espnet_initialization_fn(self) -> None:
        """Called by ESPnet's ``init: xavier_uniform`` and the like.

        Those would take a stacked weight for a convolution kernel and scale it by the wrong fan.
        """
        self.router.reset_parameters()
        self.experts.reset_parameters()

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Route every frame that is not padding.

        Args:
            x_BTD: Input (B, T, D).

        Returns:
            Output (B, T, D); zero where ``frame_mask`` is False.
        """
        mask, self.frame_mask = self.frame_mask, None
        e_BTD, self.embedding = self.embedding, None
        mask_BT = None if mask is None else mask.reshape(x_BTD.shape[:-1]).bool()
        if torch.compiler.is_exporting():
            return self._all_experts(x_BTD, e_BTD, mask_BT)
        x_ND = _valid_frames(x_BTD, mask_BT)
        # cat(embedding, x): SpeechMoE
        seen_ND = (
            x_ND if e_BTD is None else torch.cat([_valid_frames(e_BTD, mask_BT), x_ND], dim=-1)
        )
        y_ND = self._route(x_ND, seen_ND)
        if mask_BT is None:
            return y_ND.view_as(x_BTD)
        return y_ND.new_zeros(x_BTD.shape).masked_scatter(mask_BT.unsqueeze(-1), y_ND)

    def _route(self, x_ND: torch.Tensor, seen_ND: torch.Tensor) -> torch.Tensor:
        bias_E = None if self.expert_bias is None else self.expert_bias()
        logits_NE, expert_ids_NK, gates_NK = self.router(seen_ND, bias_E)
        dropped_NK = self._dropped(expert_ids_NK, gates_NK)
        if self.recorder is not None:
            routing = Routing(logits_NE, expert_ids_NK, self.experts.w_1, dropped_NK)
            self.recorder.append(routing)
        expert_ids = expert_ids_NK.flatten()
        order = expert_ids.argsort(stable=True)
        if dropped_NK is not None:
            order = order[~dropped_NK.flatten()[order]]
        frames = order.div(self.router.top_k, rounding_mode="floor")
        counts_E = expert_ids[order].bincount(minlength=logits_NE.size(1))
        y = self.experts(x_ND[frames], counts_E)
        y = y * gates_NK.flatten()[order].unsqueeze(-1).to(y.dtype)
        # Back to frame order, dropped choices as zero, by writing every row once: index_add would
        # add the K outputs of a frame in an order that differs from run to run on a GPU.
        y_by_choice = y.new_zeros(expert_ids.numel(), y.size(-1)).index_copy(0, order, y)
        return y_by_choice.unflatten(0, expert_ids_NK.shape).sum(dim=1)

    def _all_experts(
        self, x_BTD: torch.Tensor, e_BTD: torch.Tensor | None, mask_BT: torch.Tensor | None
    ) -> torch.Tensor:
        """Every expert on every frame, padding too, so that no shape depends on the data."""
        seen_BTD = x_BTD if e_BTD is None else torch.cat([e_BTD, x_BTD], dim=-1)
        bias_E = None if self.expert_bias is None else self.expert_bias()
        logits_NE, expert_ids_NK, gates_NK = self.router(seen_BTD.flatten(0, -2), bias_E)
        gates_NE = torch.zeros_like(logits_NE).scatter(1, expert_ids_NK, gates_NK)
        y_BTD = self.experts.all_of_them(x_BTD.flatten(0, -2), gates_NE).view_as(x_BTD)
        return y_BTD if mask_BT is None else y_BTD * mask_BT.unsqueeze(-1)

    def _dropped(self, expert_ids_NK: torch.Tensor, gates_NK: torch.Tensor) -> torch.Tensor | None:
        if self.capacity_factor is None:
            return None
        if not self.training:
            return torch.zeros_like(expert_ids_NK, dtype=torch.bool)
        num_frames, top_k = expert_ids_NK.shape
        num_experts = self.router.weight.size(0)
        capacity = expert_capacity(num_frames, top_k, num_experts, self.capacity_factor)
        return over_capacity(expert_ids_NK, gates_NK, num_experts, capacity)


def _valid_frames(x_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    return x_BTD.flatten(0, -2) if mask_BT is None else x_BTD[mask_BT]
