"""Scalars that say how evenly a layer used its experts."""

from collections.abc import Mapping, Sequence

import torch

from espnet_moe_share.experts.routing import Routing


def expert_load(routing: Routing) -> dict[str, torch.Tensor]:
    """Summarise one call of one expert layer.

    Args:
        routing: What was recorded; E experts.

    Returns:
        ``largest_share``: share of the choices that went to the busiest expert, 1/E to 1.
        ``dead_experts``: number of experts that no frame chose, 0 to E - 1.
        ``load_entropy``: entropy of the shares in nats, log E when all are used alike, 0 when one
        takes all.
    """
    counts_E = routing.expert_ids_NK.flatten().bincount(minlength=routing.logits_NE.size(1)).float()
    shares_E = counts_E / counts_E.sum().clamp(min=1)
    return {
        "largest_share": shares_E.max(),
        "dead_experts": (counts_E == 0).sum().float(),
        "load_entropy": torch.special.entr(shares_E).sum(),
    }


def layer_loads(records: Mapping[str, Sequence[Routing]]) -> dict[str, torch.Tensor]:
    """Name the scalars of all layers for ESPnet's logs.

    Args:
        records: Path of the expert layer (``encoders.3.feed_forward``) -> its calls.

    Returns:
        ``layer3_feed_forward_largest_share`` and so on; a layer that did not run is left out.
    """
    return {
        f"{path.replace('encoders.', 'layer').replace('.', '_')}_{name}": value
        for path, routings in records.items()
        for routing in routings
        for name, value in expert_load(routing).items()
    }
