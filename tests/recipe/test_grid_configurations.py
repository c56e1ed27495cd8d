"""conf/grid: six systems that differ in experts and sharing only, as their names say."""

from typing import Any

import pytest
import yaml
from tiny_recipe import ROOT

SYSTEMS = [
    f"{experts}_experts_{router}_router"
    for experts in ("individual", "shared")
    for router in ("individual", "shared")
]
DENSE = ["dense", "dense_shared"]


def settings(system: str) -> dict[str, Any]:
    path = ROOT / f"conf/grid/train_{system}.yaml"
    options: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return options


@pytest.mark.parametrize("system", SYSTEMS + DENSE)
def test_systems_differ_in_experts_and_sharing_only(system: str) -> None:
    first, other = settings("shared_experts_individual_router"), settings(system)
    for options in (first, other):
        options["encoder_conf"].pop("sharing", None)
        if system in DENSE:
            options["encoder_conf"].pop("experts", None)
            options["model_conf"].pop("balance_weight", None)
    assert other == first


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS + DENSE)
def test_what_is_shared(system: str) -> None:
    from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder

    layers = MoeShareConformerEncoder(input_size=40, **settings(system)["encoder_conf"]).encoders

    def individual(path: str) -> int:
        return len({id(layer.get_parameter(path)) for layer in layers})

    assert individual("norm_ff.weight") == individual("conv_module.norm.weight") == 6
    assert individual("self_attn.linear_q.weight") == (6 if system == "dense" else 1)
    if system in SYSTEMS:
        assert individual("feed_forward.experts.w_1") == (
            6 if "individual_experts" in system else 1
        )
        assert individual("feed_forward.router.weight") == (6 if "individual_r" in system else 1)
