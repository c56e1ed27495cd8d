"""Recording of what the routers decide, for losses and figures, while somebody asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.routing import Routing


@contextmanager
def record_routing(module: torch.nn.Module) -> Iterator[dict[str, list[Routing]]]:
    """Record the routing of every expert layer below a module.

    Yields:
        Path of the expert layer below ``module`` -> its calls, oldest first, filled as the
        module runs. A layer that did not run (stochastic depth) has none.
    """
    layers = {
        path: layer for path, layer in module.named_modules() if isinstance(layer, MixtureOfExperts)
    }
    records: dict[str, list[Routing]] = {path: [] for path in layers}
    for path, layer in layers.items():
        layer.recorder = records[path]
    try:
        yield records
    finally:
        # Off again before the backward pass: gradient checkpointing runs the forward a second
        # time then, and would count every frame twice.
        for layer in layers.values():
            layer.recorder = None
