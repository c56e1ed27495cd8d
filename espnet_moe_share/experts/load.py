"""Scalars that say how evenly a layer used its experts."""

import math
from collections.abc import Mapping, Sequence

import torch

from espnet_moe_share.experts.routing import Routing

_NO_LOAD = dict.fromkeys(("largest_share", "dead_experts", "load_entropy"), math.nan)


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


def layer_loads(records: Mapping[str, Sequence[Routing]]) -> dict[str, torch.Tensor | float]:
    """Name the scalars of all layers for ESPnet's logs.

    Args:
        records: Path of the expert layer (``encoders.3.feed_forward``) -> its calls.

    Returns:
        ``layer3_feed_forward_largest_share`` and so on, of each layer's last call. NaN, which
        ESPnet leaves out of its averages, for a layer that did not run: ESPnet gathers the scalars
        of all processes in order, so that every process must have the same names.
    """
    return {
        f"{path.replace('encoders.', 'layer').replace('.', '_')}_{name}": value
        for path, routings in records.items()
        for name, value in (expert_load(routings[-1]) if routings else _NO_LOAD).items()
    }
