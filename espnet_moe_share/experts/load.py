"""Scalars that say how evenly a layer used its experts."""

import math
from collections.abc import Mapping

import torch

from espnet_moe_share.experts.counts import RoutingCounts


def expert_load(counts: RoutingCounts) -> dict[str, torch.Tensor]:
    """Summarise what one expert layer did with a batch.

    Args:
        counts: Its frames and choices; E experts.

    Returns:
        ``largest_share``: share of the choices that went to the busiest expert, 1/E to 1.
        ``dead_experts``: number of experts that no frame chose, 0 to E - 1.
        ``load_entropy``: entropy of the shares in nats, log E when all are used alike, 0 when one
        takes all. All are NaN for a layer that routed no frame.
    """
    choices_E = counts.choices_E.float()
    shares_E = choices_E / choices_E.sum().clamp(min=1)
    load = {
        "largest_share": shares_E.max(),
        "dead_experts": (choices_E == 0).sum().float(),
        "load_entropy": torch.special.entr(shares_E).sum(),
    }
    return {name: value.where(counts.frames > 0, math.nan) for name, value in load.items()}


def dropped_share(counts: RoutingCounts) -> dict[str, torch.Tensor]:
    """Return ``dropped_share``: share of the choices beyond the experts' capacity, 0 to 1.

    NaN for a layer that routed no frame.
    """
    share = counts.dropped.float() / counts.choices_E.sum().clamp(min=1)
    return {"dropped_share": share.where(counts.frames > 0, math.nan)}


def layer_loads(
    counts: Mapping[str, RoutingCounts], has_capacity: bool = False
) -> dict[str, torch.Tensor]:
    """Name the scalars of all layers for ESPnet's logs.

    Args:
        counts: Path of the expert layer (``encoders.3.feed_forward``) -> its counts.
        has_capacity: Whether the layers have a ``capacity_factor``.

    Returns:
        ``layer3_feed_forward_largest_share`` and so on, and with ``has_capacity`` also
        ``..._dropped_share``. NaN, which ESPnet leaves out of its averages, for a layer that did
        not run: ESPnet gathers the scalars of all processes in order, so that every process must
        have the same names.
    """
    loads: dict[str, torch.Tensor] = {}
    for path, layer in counts.items():
        values = expert_load(layer) | (dropped_share(layer) if has_capacity else {})
        name = path.replace("encoders.", "layer").replace(".", "_")
        loads |= {f"{name}_{key}": value for key, value in values.items()}
    return loads
