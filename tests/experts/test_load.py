"""Load scalars by hand."""

import math

import pytest
import torch

from espnet_moe_share.experts.counts import RoutingCounts, count_routing
from espnet_moe_share.experts.load import expert_load, layer_loads
from espnet_moe_share.experts.routing import Routing


def counts(ids: list[list[int]], num_experts: int = 4) -> RoutingCounts:
    parameter = torch.nn.Parameter(torch.zeros(1))
    chosen = torch.tensor(ids, dtype=torch.int64)
    logits = torch.zeros(len(ids), num_experts)
    return count_routing(Routing(logits, logits.softmax(-1), chosen, parameter))


@pytest.mark.parametrize(
    ("ids", "share", "dead", "entropy"),
    [
        ([[0], [1], [2], [3]], 0.25, 0, math.log(4)),
        ([[2], [2], [2]], 1.0, 3, 0.0),
        ([[0], [0], [0], [3]], 0.75, 2, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        ([[0, 1], [0, 2]], 0.5, 1, 1.5 * math.log(2)),
    ],
)
def test_expert_load(ids: list[list[int]], share: float, dead: int, entropy: float) -> None:
    load = {name: value.item() for name, value in expert_load(counts(ids)).items()}
    assert load == pytest.approx(
        {"largest_share": share, "dead_experts": dead, "load_entropy": entropy}, abs=1e-6
    )


def test_names_tell_layers_and_feed_forwards_apart() -> None:
    layers = {
        "encoders.0.feed_forward": counts([[0]]),
        "encoders.11.feed_forward_macaron": counts([[1], [2]]),
    }
    loads = layer_loads(layers)
    assert loads["layer0_feed_forward_largest_share"] == 1
    assert loads["layer11_feed_forward_macaron_largest_share"] == 0.5
    assert len(loads) == 6


def test_a_layer_that_did_not_run_has_no_load() -> None:
    """ESPnet leaves NaN out of its averages; a 0 would look like a perfect or a dead layer."""
    assert all(value.isnan() for value in expert_load(counts([])).values())
