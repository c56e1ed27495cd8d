"""Expert capacity: how many frames an expert takes at most, and which it drops.

Fedus et al. 2022 (Switch Transformers, formula 3): capacity = capacity_factor * N * K / E. A choice
beyond it contributes zero, so that the layer's residual connection passes the frame on.
"""

import math

import torch


def expert_capacity(num_frames: int, top_k: int, num_experts: int, capacity_factor: float) -> int:
    """Largest number of frames that one expert takes, rounded up.

    Rounding up drops nothing from an even load at factor 1, as far as frames can be even.
    """
    return math.ceil(capacity_factor * num_frames * top_k / num_experts)


def over_capacity(
    expert_ids_NK: torch.Tensor, gates_NK: torch.Tensor, num_experts: int, capacity: int
) -> torch.Tensor:
    """Mark the choices that their expert has no room for.

    Each expert keeps the choices with the largest gates (Riquelme et al. 2021, V-MoE, batch
    prioritized routing), the earlier frame at equal gates. Switch Transformers keep the first
    ones of the batch instead, which would cost the batch's last utterances most.

    Args:
        expert_ids_NK: Chosen experts (N, K).
        gates_NK: Their gates (N, K).
        num_experts: E.
        capacity: Choices that one expert keeps.

    Returns:
        Bool (N, K), True on dropped choices.
    """
    expert_ids = expert_ids_NK.flatten()
    by_gate = gates_NK.detach().flatten().argsort(descending=True, stable=True)
    # first expert's choices first, each expert's by falling gate
    order = by_gate[expert_ids[by_gate].argsort(stable=True)]
    counts_E = expert_ids.bincount(minlength=num_experts)
    first_E = counts_E.cumsum(0) - counts_E
    rank = torch.arange(order.numel(), device=order.device) - first_E[expert_ids[order]]
    dropped = torch.empty_like(order, dtype=torch.bool)
    dropped[order] = rank >= capacity
    return dropped.view_as(expert_ids_NK)
