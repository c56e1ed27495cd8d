"""What is the Conformer's own in moe_share_conformer; test_all_encoders.py has the rest."""

import itertools
from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, SHARING, encoder, features

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.sharing.layers import SharedLayers


def test_stochastic_depth_skips_layers_and_their_routing() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING, stochastic_depth_rate=[0.0, 0.999, 0.0, 0.0])
    x, lengths = features()
    with record_routing(model) as records:
        model(x, lengths)[0].sum().backward()
    ran = {path: len(calls) for path, calls in records.items()}
    assert ran == {f"encoders.{n}.feed_forward": int(n != 1) for n in range(4)}
    model.eval()
    with record_routing(model) as records:
        model(x, lengths)
    assert all(len(calls) == 1 for calls in records.values())


COMBINATIONS = itertools.product(
    [None, EXPERTS, {**EXPERTS, "top_k": 2, "modules": ["feed_forward", "feed_forward_macaron"]}],
    [None, SHARING, "all"],
    [{}, {"use_sdpa": True}, {"stochastic_depth_rate": 0.3}],
)


@pytest.mark.parametrize(("experts", "sharing", "settings"), COMBINATIONS)
def test_every_combination_trains_a_step(experts: Any, sharing: Any, settings: Any) -> None:
    if sharing == "all":
        sharing = [{"modules": ["*"], "groups": 2, "order": "cyclic"}]
    elif sharing and experts is None:
        sharing = [{**sharing[0], "except": ["*norm*"]}]
    model = encoder(experts=experts, sharing=sharing, input_layer="conv2d6", **settings)
    x, lengths = features(lengths=(60, 41))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    model(x, lengths)[0].square().sum().backward()
    if "stochastic_depth_rate" not in settings:
        assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    used = [p.grad is not None for p in model.parameters()]
    assert all(u for m, u in zip(moved, used) if m)
    assert sum(moved) > 0.8 * sum(used)
    assert all(p.isfinite().all() for p in model.parameters())


def test_experts_replace_the_named_feed_forwards_only() -> None:
    model = encoder(experts={"num_experts": 3, "modules": ["feed_forward_macaron"]})
    for layer in model.encoders:
        assert isinstance(layer.feed_forward_macaron, MixtureOfExperts)
        assert not isinstance(layer.feed_forward, MixtureOfExperts)
        assert layer.feed_forward_macaron.experts.w_1.shape == (3, 12, 8)
        assert layer.feed_forward_macaron.router.top_k == 1
    assert not isinstance(model.encoders, SharedLayers)
    default = encoder(experts={"num_experts": 2})
    assert isinstance(default.encoders[0].feed_forward, MixtureOfExperts)
    assert not isinstance(default.encoders[0].feed_forward_macaron, MixtureOfExperts)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({}, "'num_experts' is missing"),
        ({"num_experts": 4, "topk": 1}, "unknown key 'topk'; the keys are num_experts, top_k"),
        ({"num_experts": 0}, "'num_experts' must be 1 or more, not 0"),
        ({"num_experts": "4"}, "'num_experts' must be 1 or more, not '4'"),
        ({"num_experts": 4, "top_k": 5}, r"'top_k' must be 1 to num_experts \(4\), not 5"),
        ({"num_experts": 4, "top_k": 0}, r"'top_k' must be 1 to num_experts \(4\), not 0"),
        ({"num_experts": 4, "modules": []}, "'modules' must be a list such as"),
        ({"num_experts": 4, "modules": "feed_forward"}, "'modules' must be a list such as"),
        (
            {"num_experts": 4, "modules": ["self_attn"]},
            "'self_attn' in 'modules' is no linear feed-forward of an encoder layer; "
            "those are feed_forward, feed_forward_macaron",
        ),
    ],
)
def test_refused_experts(experts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        encoder(experts=experts)
    assert "\n" not in str(refused.value)


def test_feed_forward_macaron_without_macaron_style_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'feed_forward_macaron'.*are feed_forward$"):
        encoder(experts={**EXPERTS, "modules": ["feed_forward_macaron"]}, macaron_style=False)


def test_convolutional_feed_forward_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is positionwise_layer_type linear"):
        encoder(experts=EXPERTS, positionwise_layer_type="conv1d")
