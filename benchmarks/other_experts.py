"""Expert layers as others write them, for comparison; with the weights of one of ours."""

from __future__ import annotations

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from torch.nn import functional as F

from espnet_moe_share.experts.feed_forward import MixtureOfExperts


class _TopK(torch.nn.Module):
    """Router in float32; the gate is the raw probability at top-1, else normalised."""

    def __init__(self, layer: MixtureOfExperts) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(layer.router.weight.detach().clone())
        self.top_k = layer.router.top_k

    def forward(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(x_ND.device.type, enabled=False):
            probabilities_NE = F.linear(x_ND.float(), self.weight).softmax(dim=-1)
        gates_NK, ids_NK = probabilities_NE.topk(self.top_k, dim=-1)
        if self.top_k > 1:
            gates_NK = gates_NK / gates_NK.sum(dim=-1, keepdim=True)
        return gates_NK, ids_NK


class LoopOfExperts(torch.nn.Module):
    """The usual loop: a ModuleList, each expert's frames by ``nonzero``, ``index_add_``."""

    def __init__(self, layer: MixtureOfExperts) -> None:
        super().__init__()
        self.router = _TopK(layer)
        stacked = layer.experts
        num_experts, hidden_units, size = stacked.w_1.shape
        self.experts = torch.nn.ModuleList()
        for expert in range(num_experts):
            dense = PositionwiseFeedForward(size, hidden_units, 0.0, stacked.activation)
            dense.dropout = stacked.dropout
            with torch.no_grad():
                for linear, weight, bias in (
                    (dense.w_1, stacked.w_1, stacked.b_1),
                    (dense.w_2, stacked.w_2, stacked.b_2),
                ):
                    linear.weight.copy_(weight[expert])
                    linear.bias.copy_(bias[expert])
            self.experts.append(dense)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_ND = x_BTD.flatten(0, -2)
        gates_NK, ids_NK = self.router(x_ND)
        y_ND = torch.zeros_like(x_ND)
        for expert, feed_forward in enumerate(self.experts):
            frames, choices = (ids_NK == expert).nonzero(as_tuple=True)
            y = feed_forward(x_ND[frames]) * gates_NK[frames, choices].unsqueeze(-1)
            y_ND.index_add_(0, frames, y.to(y_ND.dtype))
        return y_ND.view_as(x_BTD)


class AllExperts(torch.nn.Module):
    """Every expert for every frame; what was not chosen has the gate 0."""

    def __init__(self, layer: MixtureOfExperts) -> None:
        super().__init__()
        self.router = _TopK(layer)
        stacked = layer.experts
        for name in ("w_1", "b_1", "w_2", "b_2"):
            weight = getattr(stacked, name).detach().clone()
            self.register_parameter(name, torch.nn.Parameter(weight))
        self.dropout, self.activation = stacked.dropout, stacked.activation

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_ND = x_BTD.flatten(0, -2)
        gates_NK, ids_NK = self.router(x_ND)
        gates_NE = gates_NK.new_zeros(x_ND.size(0), self.w_1.size(0)).scatter(1, ids_NK, gates_NK)
        h_ENH = torch.matmul(x_ND, self.w_1.transpose(1, 2)) + self.b_1.unsqueeze(1)
        h_ENH = self.dropout(self.activation(h_ENH))
        y_END = torch.matmul(h_ENH, self.w_2.transpose(1, 2)) + self.b_2.unsqueeze(1)
        return torch.einsum("end,ne->nd", y_END, gates_NE.to(y_END.dtype)).view_as(x_BTD)
