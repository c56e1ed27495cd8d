"""Load scalars by hand."""

import math

import pytest
import torch

from espnet_moe_share.experts.load import expert_load, layer_loads
from espnet_moe_share.experts.routing import Routing


def routing(ids: list[list[int]], num_experts: int = 4) -> Routing:
    parameter = torch.nn.Parameter(torch.zeros(1))
    return Routing(torch.zeros(len(ids), num_experts), torch.tensor(ids), parameter)


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
    load = {name: value.item() for name, value in expert_load(routing(ids)).items()}
    assert load == pytest.approx(
        {"largest_share": share, "dead_experts": dead, "load_entropy": entropy}, abs=1e-6
    )


def test_names_tell_layers_and_feed_forwards_apart() -> None:
    records = {
        "encoders.0.feed_forward": [routing([[0]])],
        "encoders.11.feed_forward_macaron": [routing([[1], [2]])],
    }
    loads = layer_loads(records)
    assert loads["layer0_feed_forward_largest_share"] == 1
    assert loads["layer11_feed_forward_macaron_largest_share"] == 0.5
    assert len(loads) == 6
