"""What routers decided, recorded for losses and figures while somebody asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Routing:
    """One call of one expert layer; padded frames are not in it.

    Attributes:
        logits_NE: Router logits (N, E), float32, with gradient.
        expert_ids_NK: Chosen experts (N, K), likeliest first.
        experts: A weight of the experts that served it. Layers that share their experts hold the
            very same parameter.
    """

    logits_NE: torch.Tensor
    expert_ids_NK: torch.Tensor
    experts: torch.nn.Parameter


@contextmanager
def record_routing(module: torch.nn.Module) -> Iterator[dict[str, list[Routing]]]:
    """Record the routing of every expert layer below a module.

    Yields:
        Path of the expert layer below ``module`` -> its calls, oldest first, filled as the
        module runs. A layer that did not run (stochastic depth) has none.
    """
    from espnet_moe_share.experts.feed_forward import MixtureOfExperts

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
