"""The expert layer: router, dispatch, experts and combination."""

import torch

from espnet_moe_share.experts.capacity import expert_capacity, over_capacity
from espnet_moe_share.experts.dispatch import Choices
from espnet_moe_share.experts.expert_bias import ExpertBias
from espnet_moe_share.experts.experts import StackedExperts
from espnet_moe_share.experts.frames import Frames, find_frames
from espnet_moe_share.experts.kernels import apply_dense, apply_sorted, choose_kernel, is_traced
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
        router_class: Class of the router.
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
        router_class: type[TopKRouter] = TopKRouter,
    ) -> None:
        super().__init__()
        self.capacity_factor = capacity_factor
        self.router = router_class(embedding_size + size, num_experts, top_k, jitter)
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
        mask, e_BTD = self.frame_mask, self.embedding
        # setting an attribute of a module takes as long as an operator
        if mask is not None:
            self.frame_mask = None
        if e_BTD is not None:
            self.embedding = None
        x_RD = x_BTD.flatten(0, -2)
        e_RD = None if e_BTD is None else e_BTD.flatten(0, -2)
        if mask is None:
            return self._route(x_RD, e_RD, None).view_as(x_BTD)
        if mask.numel() != x_RD.size(0):
            raise ValueError(f"frame_mask {tuple(mask.shape)} is not that of {tuple(x_BTD.shape)}")
        if is_traced():
            # how many frames are valid is not known then
            mask_BT1 = mask.reshape(*x_BTD.shape[:-1], 1)
            return self._route(x_RD, e_RD, None).view_as(x_BTD).masked_fill(~mask_BT1, 0)
        return self._route(x_RD, e_RD, find_frames(mask)).view_as(x_BTD)

    def _route(
        self, x_RD: torch.Tensor, e_RD: torch.Tensor | None, frames: Frames | None
    ) -> torch.Tensor:
        """Return the output of rows (R, D): of the frames; zero on padding."""
        x_ND = x_RD if frames is None else frames.take(x_RD)
        seen_ND = x_ND
        if e_RD is not None:
            e_ND = e_RD if frames is None else frames.take(e_RD)
            seen_ND = torch.cat([e_ND, x_ND], dim=-1)  # SpeechMoE
        experts, expert_bias = self.experts, self.expert_bias  # a module looks for its own
        bias_E = None if expert_bias is None else expert_bias()
        logits_NE, p_NE, expert_ids_NK, gates_NK = self.router(seen_ND, bias_E)
        dropped_NK = self._dropped(expert_ids_NK, gates_NK)
        if self.recorder is not None:
            routing = Routing(logits_NE, p_NE, expert_ids_NK, experts.w_1, dropped_NK)
            self.recorder.append(routing)
        kernel = choose_kernel(x_ND, experts)
        if kernel == "dense":
            if dropped_NK is not None:
                gates_NK = gates_NK.masked_fill(dropped_NK, 0)
            y_ND = apply_dense(experts, x_ND, expert_ids_NK, gates_NK)
            return y_ND if frames is None else frames.put(y_ND)
        choices = Choices(expert_ids_NK, gates_NK, p_NE.size(1), dropped_NK, frames)
        return apply_sorted(kernel, experts, x_RD, choices)

    def _dropped(self, expert_ids_NK: torch.Tensor, gates_NK: torch.Tensor) -> torch.Tensor | None:
        if self.capacity_factor is None:
            return None
        if not self.training:
            return None
        num_frames, top_k = expert_ids_NK.shape
        num_experts = self.router.weight.size(0)
        capacity = expert_capacity(num_frames, top_k, num_experts, self.capacity_factor)
        return over_capacity(expert_ids_NK, gates_NK, num_experts, capacity)
