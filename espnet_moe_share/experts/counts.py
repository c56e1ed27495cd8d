"""Sums over frames, over which the losses and the figures of routing are taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from espnet_moe_share.experts.routing import Routing


@dataclass(frozen=True)
class RoutingCounts:
    """What one expert layer did with a batch, summed over its frames.

    Without gradient, so that the processes of a distributed training can add theirs up.

    Attributes:
        frames: Number of frames that the layer routed (), int64.
        choices_E: How often each expert was chosen (E,), int64; together K times ``frames``.
        dropped: How many of the choices found their expert full (), int64.
        probabilities_E: Sum of the router's probabilities (E,); of each frame they are 1 in all.
    """

    frames: torch.Tensor
    choices_E: torch.Tensor
    dropped: torch.Tensor
    probabilities_E: torch.Tensor


@torch.no_grad()
def count_routing(routing: Routing) -> RoutingCounts:
    """Add up the frames of one call of one expert layer."""
    frames, num_experts = routing.logits_NE.shape
    expert_ids = routing.expert_ids_NK.flatten()
    dropped_NK = routing.dropped_NK
    return RoutingCounts(
        expert_ids.new_full((), frames),
        # not bincount, which waits for a GPU
        expert_ids.new_zeros(num_experts).scatter_add_(0, expert_ids, torch.ones_like(expert_ids)),
        expert_ids.new_zeros(()) if dropped_NK is None else dropped_NK.sum(),
        routing.probabilities_NE.sum(dim=0),
    )


def add_counts(counts: Sequence[RoutingCounts]) -> RoutingCounts:
    """Add the counts of several layers that have the same number of experts."""
    return RoutingCounts(
        torch.stack([layer.frames for layer in counts]).sum(),
        torch.stack([layer.choices_E for layer in counts]).sum(dim=0),
        torch.stack([layer.dropped for layer in counts]).sum(),
        torch.stack([layer.probabilities_E for layer in counts]).sum(dim=0),
    )
