"""One router for all layers (Omni-router) beside one for every layer (Switch Transformers)."""

from typing import Any

import pytest
import torch
import yaml
from tiny_models import MELS
from tiny_recipe import ROOT

from espnet_moe_share.experts.feed_forward import MixtureOfExperts

PAIRS = {
    "conformer": ("train_omni_router.yaml", "train_switch.yaml"),
    "transformer": ("train_omni_router_transformer.yaml", "train_switch_transformer.yaml"),
}


def settings(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "conf" / name).read_text("utf-8"))
    return loaded


def expert_layers(encoder: str, encoder_conf: dict[str, Any]) -> list[MixtureOfExperts]:
    """Of the configuration's encoder with hidden layers of 8 units."""
    from espnet2.tasks.asr import encoder_choices

    import espnet_moe_share

    espnet_moe_share.register()
    model = encoder_choices.get_class(encoder)(MELS, **{**encoder_conf, "linear_units": 8})
    return [layer for layer in model.encoders.modules() if isinstance(layer, MixtureOfExperts)]


@pytest.mark.parametrize("encoder", PAIRS)
def test_one_router_or_one_per_layer_and_experts_apart(encoder: str) -> None:
    for name, routers in zip(PAIRS[encoder], (1, 12)):
        options = settings(name)
        assert options["encoder"] == f"moe_share_{encoder}"
        layers = expert_layers(options["encoder"], options["encoder_conf"])
        assert [layer.router.top_k for layer in layers] == [1] * 12
        assert len({id(layer.router.weight) for layer in layers}) == routers
        for weight in ("w_1", "b_1", "w_2", "b_2"):
            assert len({id(getattr(layer.experts, weight)) for layer in layers}) == 12


@pytest.mark.parametrize("encoder", PAIRS)
def test_omni_router_and_switch_differ_in_the_sharing_rule_only(encoder: str) -> None:
    omni, switch = (settings(name) for name in PAIRS[encoder])
    assert omni["encoder_conf"].pop("sharing") == [{"modules": ["*.router"], "groups": 1}]
    assert omni == switch


@pytest.mark.parametrize("encoder", PAIRS)
def test_trained_like_the_main_system(encoder: str) -> None:
    main, omni = settings("train_moe_share_conformer.yaml"), settings(PAIRS[encoder][0])
    assert main["model_conf"].pop("distill_weight") > 0
    main_encoder, own = main.pop("encoder_conf"), omni.pop("encoder_conf")
    for options in (main, omni):
        del options["encoder"]
    assert omni == main
    del main_encoder["sharing"], own["sharing"]
    if encoder == "conformer":
        assert own == main_encoder
    else:
        assert own.items() <= main_encoder.items()


@pytest.mark.parametrize("name", ["moe_share_conformer", "moe_share_transformer"])
@pytest.mark.parametrize(
    ("groups", "routers"),
    [
        (4, [0, 1, 2, 3]),
        ([[1, 2]], [0, 1, 1, 3]),
        (2, [0, 0, 2, 2]),
        (1, [0, 0, 0, 0]),
    ],
)
def test_layers_have_the_router_that_the_rule_gives_them(
    name: str, groups: Any, routers: list[int]
) -> None:
    """Of one, several or all layers: the very same parameter, moved by the gradients of all."""
    from tiny_models import EXPERTS, encoder, features

    model = encoder(
        name=name, experts=EXPERTS, sharing=[{"modules": ["*.router"], "groups": groups}]
    )
    weights = [layer.feed_forward.router.weight for layer in model.encoders]
    for layer, weight in enumerate(weights):
        same = [weight is other for other in weights]
        assert same == [number == routers[layer] for number in routers]
    experts = [layer.feed_forward.experts.w_1 for layer in model.encoders]
    assert len({id(weight) for weight in experts}) == 4
    # a shared router's gradient is the sum of what the layers alone would give it
    x, lengths = features()
    model.eval()(x, lengths)[0].square().sum().backward()
    apart = encoder(name=name, seed=1, experts=EXPERTS).eval()
    for mine, theirs in zip(model.encoders, apart.encoders):
        theirs.load_state_dict(mine.state_dict())
    apart.embed.load_state_dict(model.embed.state_dict())
    apart.after_norm.load_state_dict(model.after_norm.state_dict())
    apart(x, lengths)[0].square().sum().backward()
    alone = [layer.feed_forward.router.weight.grad for layer in apart.encoders]
    for layer, weight in enumerate(weights):
        wanted = sum(alone[n] for n in range(4) if routers[n] == routers[layer])
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-4, atol=1e-6)
