"""Scalars that say how evenly a layer used its experts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

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


def dropped_share(routing: Routing) -> dict[str, torch.Tensor]:
    """Return ``dropped_share``: share of a call's choices beyond the experts' capacity, 0 to 1."""
    assert routing.dropped_NK is not None, "the layer has no capacity_factor"
    dropped = routing.dropped_NK.float()
    return {"dropped_share": dropped.sum() / max(dropped.numel(), 1)}


def layer_loads(
    records: Mapping[str, Sequence[Routing]], has_capacity: bool = False
) -> dict[str, torch.Tensor | float]:
    """Name the scalars of all layers for ESPnet's logs.

    Args:
        records: Path of the expert layer (``encoders.3.feed_forward``) -> its calls.
        has_capacity: Whether the layers have a ``capacity_factor``.

    Returns:
        ``layer3_feed_forward_largest_share`` and so on, of each layer's last call, and with
        ``has_capacity`` also ``..._dropped_share``. NaN, which ESPnet leaves out of its averages,
        for a layer that did not run: ESPnet gathers the scalars of all processes in order, so
        that every process must have the same names.
    """
    loads: dict[str, torch.Tensor | float] = {}
    for path, routings in records.items():
        values: dict[str, Any] = expert_load(routings[-1]) if routings else dict(_NO_LOAD)
        if has_capacity:
            values |= dropped_share(routings[-1]) if routings else {"dropped_share": math.nan}
        layer = path.replace("encoders.", "layer").replace(".", "_")
        loads |= {f"{layer}_{name}": value for name, value in values.items()}
    return loads
