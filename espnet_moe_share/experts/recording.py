"""Recording of what the routers decide, for losses and figures, while somebody asks for it."""

from collections.abc import Iterator, Mapping, Sequence
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


def routing_by_layer(
    module: torch.nn.Module, records: Mapping[str, Sequence[Routing]]
) -> dict[str, Routing]:
    """Make of each layer's calls one, so that every layer has one, in the same order anywhere.

    Args:
        module: What was given to :func:`record_routing`.
        records: What it recorded.

    Returns:
        Path of the expert layer -> all its calls as one; without frames if it did not run.
    """
    return {
        path: calls[0] if len(calls) == 1 else _join(module.get_submodule(path), calls)
        for path, calls in records.items()
    }


def _join(layer: torch.nn.Module, calls: Sequence[Routing]) -> Routing:
    assert isinstance(layer, MixtureOfExperts)
    router = layer.router.weight
    no_logits = router.new_empty(0, router.size(0), dtype=torch.float32)
    no_choices = router.new_empty(0, layer.router.top_k, dtype=torch.int64)
    dropped = [call.dropped_NK for call in calls if call.dropped_NK is not None]
    return Routing(
        torch.cat([no_logits, *(call.logits_NE for call in calls)]),
        torch.cat([no_logits, *(call.probabilities_NE for call in calls)]),
        torch.cat([no_choices, *(call.expert_ids_NK for call in calls)]),
        layer.experts.w_1,
        torch.cat(dropped) if dropped else None,
    )
