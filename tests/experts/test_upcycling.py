"""Layers with experts that start from a dense model's."""

from typing import Any

import pytest
import torch
from tiny_models import ENCODERS, encoder, features, randomize

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.upcycling import Upcycling, upcycle_layers

EXACT = Upcycling(noise=0.0)


def dense_encoder(name: str = "conformer", **changes: Any) -> Any:
    return randomize(encoder(name=name, **changes)).eval()


def started(
    dense: Any, upcycling: Upcycling, name: str = "conformer", **knobs: Any
) -> tuple[Any, dict[tuple[int, str], str]]:
    """Our encoder from another seed, with the dense encoder's values."""
    model = encoder(seed=3, name=f"moe_share_{name}", **knobs).eval()
    sources = upcycle_layers(model.encoders, dense.encoders, upcycling)
    model.embed.load_state_dict(dense.embed.state_dict())
    model.after_norm.load_state_dict(dense.after_norm.state_dict())
    return model, sources


@pytest.mark.parametrize("name", ENCODERS)
def test_same_experts_with_gates_that_add_up_to_one_are_the_dense_model(
    double_precision: None, name: str
) -> None:
    dense = dense_encoder(name)
    modules = (
        ["feed_forward"] if name == "transformer" else ["feed_forward", "feed_forward_macaron"]
    )
    x, lengths = features(lengths=(20, 20))  # experts leave padding alone, dense layers do not
    for top_k in (2, 4):
        experts = {"num_experts": 4, "top_k": top_k, "modules": modules}
        model, _ = started(dense, EXACT, name, experts=experts)
        torch.testing.assert_close(model(x, lengths)[0], dense(x, lengths)[0])


def test_top_1_with_even_gates_is_the_dense_model(double_precision: None) -> None:
    dense = dense_encoder()
    x, lengths = features(lengths=(20, 20))  # experts leave padding alone, dense layers do not
    wanted = dense(x, lengths)[0]
    experts = {"num_experts": 4}
    distances = []
    for router_std in (0.0, 0.01, 1.0):
        model, sources = started(
            dense, Upcycling(noise=0.0, router_std=router_std), experts=experts
        )
        distances.append((model(x, lengths)[0] - wanted).abs().max().item())
    assert distances[0] < 1e-12 < distances[1] < 0.1 * distances[2]
    assert sources[2, "feed_forward.experts.w_2"] == "all experts: layer 2, times 4"
    assert sources[2, "feed_forward.experts.w_1"] == "all experts: layer 2"
    assert sources[2, "feed_forward.router.weight"] == "new, logits of standard deviation 1"


SHARING = [{"modules": ["*"], "except": ["*norm*", "*.router"], "groups": [[0, 2, 3]]}]


@pytest.mark.parametrize("place", [None, 1, -1])
def test_shared_tensors_are_the_mean_or_one_layers(
    double_precision: None, place: int | None
) -> None:
    dense = dense_encoder()
    upcycling = Upcycling(place, noise=0.0)
    experts = {"num_experts": 2, "top_k": 2}
    model, sources = started(dense, upcycling, experts=experts, sharing=SHARING)
    layers = [0, 2, 3] if place is None else [[0, 2, 3][place]]

    def wanted(path: str) -> torch.Tensor:
        return sum(dense.encoders[n].get_parameter(path) for n in layers) / len(layers)

    source = "mean of layers 0,2,3" if place is None else f"layer {layers[0]}"
    for path in ("self_attn.linear_q.weight", "conv_module.pointwise_conv2.bias"):
        torch.testing.assert_close(model.encoders[3].get_parameter(path), wanted(path))
        assert sources[0, path] == source and (3, path) not in sources
        alone = dense.encoders[1].get_parameter(path)
        assert torch.equal(model.encoders[1].get_parameter(path), alone)
        assert sources[1, path] == "layer 1"
    for ours, theirs in (("w_1", "w_1.weight"), ("b_2", "w_2.bias")):
        expert = getattr(model.encoders[2].feed_forward.experts, ours)
        for number in range(2):
            torch.testing.assert_close(expert[number], wanted(f"feed_forward.{theirs}"))
        assert sources[0, f"feed_forward.experts.{ours}"] == f"all experts: {source}"
    for number in range(4):
        norm = dense.encoders[number].norm_ff.weight
        assert torch.equal(model.encoders[number].norm_ff.weight, norm)


def test_experts_from_different_layers(double_precision: None) -> None:
    dense = dense_encoder()
    upcycling = Upcycling(experts_from_layers=True, noise=0.0)
    for num_experts, chosen in ((2, [1, 3]), (4, [0, 1, 2, 3]), (3, [0, 2, 3])):
        model, sources = started(
            dense,
            upcycling,
            experts={"num_experts": num_experts},
            sharing=[{"modules": ["feed_forward.experts"], "groups": 1}],
        )
        for number, layer in enumerate(chosen):
            feed_forward = dense.encoders[layer].feed_forward
            experts = model.encoders[0].feed_forward.experts
            assert torch.equal(experts.w_1[number], feed_forward.w_1.weight)
            assert torch.equal(experts.b_1[number], feed_forward.w_1.bias)
            torch.testing.assert_close(experts.w_2[number], num_experts * feed_forward.w_2.weight)
            torch.testing.assert_close(experts.b_2[number], num_experts * feed_forward.w_2.bias)
        source = f"of its experts: layers {', '.join(map(str, chosen))}"
        assert sources[0, "feed_forward.experts.w_1"] == source


def test_noise_makes_experts_differ_by_what_is_told(double_precision: None) -> None:
    dense = dense_encoder(linear_units=400)
    experts = {"num_experts": 4, "bias_update_rate": 0.1}
    settings = {"experts": experts, "linear_units": 400}
    models = [started(dense, Upcycling(noise=0.05, seed=seed), **settings) for seed in (0, 0, 1)]
    first, again, other = (model.state_dict() for model, _ in models)
    assert all(torch.equal(first[key], again[key]) for key in first if "encoders." in key)
    key = "encoders.1.feed_forward.experts.w_1"
    assert not torch.equal(first[key], other[key])
    weight = dense.encoders[1].feed_forward.w_1.weight
    for number in range(4):
        ratio = (first[key][number] - weight).std() / weight.std()
        assert ratio.item() == pytest.approx(0.05, rel=0.1)
    assert not torch.equal(first[key][0], first[key][1])
    biases = first["encoders.1.feed_forward.experts.b_1"]
    assert torch.equal(biases, dense.encoders[1].feed_forward.w_1.bias.expand_as(biases))
    router = first["encoders.1.feed_forward.router.weight"]
    assert router.norm(dim=1).mean().item() == pytest.approx(0.1, rel=0.5)
    assert "noise of 0.05 of its standard deviation" in models[0][1][1, key.partition("1.")[2]]
    assert models[0][1][1, "feed_forward.expert_bias.bias"] == "new, zero"


def test_sources_name_every_tensor_once(double_precision: None) -> None:
    low_rank = [{"modules": ["self_attn.linear_q"], "rank": 3}]
    model, sources = started(
        dense_encoder(), EXACT, experts={"num_experts": 2}, low_rank=low_rank, sharing=SHARING
    )
    keys = {model.encoders.shared_key(f"{layer}.{path}") for layer, path in sources}
    assert len(keys) == len(sources) and keys == model.encoders.state_dict().keys()
    factor = sources[0, "self_attn.linear_q.up.weight"]
    assert factor == "singular value decomposition, layers 0,2,3"


@pytest.mark.parametrize(
    ("source", "knobs", "upcycling", "message"),
    [
        ({}, {}, EXACT, "has no experts to start"),
        ({"num_blocks": 3}, {"experts": {"num_experts": 2}}, EXACT, "has 3 encoder layers, the"),
        (
            {"linear_units": 10, "macaron_style": False},
            {"macaron_style": False, "experts": {"num_experts": 2}},
            EXACT,
            r"layer 0: 'feed_forward.w_1.weight' is \(10, 8\) in the dense model and \(12, 8\)",
        ),
        (
            {},
            {"experts": {"num_experts": 2}, "sharing": SHARING},
            Upcycling(place=3),
            "layers 0, 2, 3 share a tensor: there is no place 3 among these 3",
        ),
    ],
)
def test_refusals(
    source: dict[str, Any], knobs: dict[str, Any], upcycling: Upcycling, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        started(dense_encoder(**source), upcycling, **knobs)


def test_a_model_with_experts_is_not_dense() -> None:
    experts = {"num_experts": 2}
    source = encoder(experts=experts).eval()
    with pytest.raises(ConfigurationError, match=r"layer 0 of the dense model has no 'feed_forw"):
        started(source, EXACT, experts=experts)
    source = dense_encoder()
    with torch.no_grad():
        source.encoders[1].feed_forward.w_1.weight[0, 0] = float("nan")
    with pytest.raises(
        ConfigurationError, match=r"layer 1: 'feed_forward.w_1.weight' of the dense"
    ):
        started(source, EXACT, experts=experts)
