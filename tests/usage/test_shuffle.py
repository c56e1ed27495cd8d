"""Shuffled experts are those that the permutation names, and nothing else changes."""

import numpy as np
import pytest
import torch
from tiny_models import encoder, features

from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.usage.shuffle import draw_derangement, expert_layers, shuffled_experts


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("top_k", [1, 2])
def test_same_as_experts_in_another_order(top_k: int) -> None:
    """Sending expert e's frames to pi(e) is keeping the router and moving the experts."""
    torch.manual_seed(0)
    activation, dropout = torch.nn.SiLU(), torch.nn.Identity()
    layer = MixtureOfExperts(6, 5, dropout, activation, num_experts=4, top_k=top_k).eval()
    x = torch.randn(2, 9, 6)
    permutation = torch.tensor([2, 0, 3, 1])
    before = layer(x)
    holder = torch.nn.ModuleDict({"feed_forward": layer})
    with shuffled_experts(holder, {"feed_forward": permutation}), record_routing(holder) as records:
        shuffled = layer(x)
    assert torch.equal(layer(x), before)
    (routing,) = records["feed_forward"]
    with record_routing(holder) as records:
        layer(x)
    assert torch.equal(routing.expert_ids_NK, permutation[records["feed_forward"][0].expert_ids_NK])
    with torch.no_grad():
        for weight in layer.experts.parameters():
            weight.copy_(weight[permutation])
    assert not torch.allclose(shuffled, before)
    assert torch.allclose(layer(x), shuffled)


def test_layers_that_share_a_router_are_shuffled_apart() -> None:
    experts = {"num_experts": 3, "top_k": 1, "modules": ["feed_forward"]}
    model = encoder(
        experts=experts, sharing=[{"modules": ["feed_forward.router"], "groups": 1}], num_blocks=2
    ).eval()
    x, lengths = features()
    first, second = expert_layers(model)
    with torch.no_grad(), record_routing(model) as before:
        model(x, lengths)
    shuffled = shuffled_experts(model, {second: torch.tensor([1, 2, 0])})
    with torch.no_grad(), record_routing(model) as after, shuffled:
        model(x, lengths)
    ids = [
        records[path][0].expert_ids_NK for path in (first, second) for records in (before, after)
    ]
    assert torch.equal(ids[0], ids[1])
    assert torch.equal((ids[2] + 1) % 3, ids[3])


def test_no_expert_stays() -> None:
    rng = np.random.default_rng(0)
    drawn = {tuple(draw_derangement(4, rng).tolist()) for _ in range(300)}
    assert len(drawn) == 9  # all derangements of four
    assert all(e != f for permutation in drawn for e, f in enumerate(permutation))
