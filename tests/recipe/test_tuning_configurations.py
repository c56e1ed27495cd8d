"""Controls and ablations: each differs from the main system in what its name says, and no more.

Their sizes, and the table of docs/configurations.md, are those that the profile command gives.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipe import ROOT

TEACHER, MAIN = "train_teacher_conformer", "train_moe_share_conformer"
TUNING = sorted(path.stem for path in (ROOT / "conf/tuning").glob("*.yaml"))
SYSTEMS = [
    *(
        f"train_low_rank_share_{level}_conformer"
        for level in ("blocks", "modules", "parts", "factors")
    ),
    *("train_speechmoe", "train_omni_router", "train_omni_router_transformer"),
    *("train_switch", "train_switch_transformer"),
]
DOCUMENT = ROOT / "docs/configurations.md"


def file_of(name: str) -> Path:
    return Path("conf/tuning" if name in TUNING else "conf", f"{name}.yaml")


def options(name: str) -> dict[str, Any]:
    """Options of a configuration; those of a section are named ``encoder_conf.num_blocks``."""
    found: dict[str, Any] = {}
    for key, value in yaml.safe_load((ROOT / file_of(name)).read_text("utf-8")).items():
        if isinstance(value, dict):
            found.update({f"{key}.{inner}": below for inner, below in value.items()})
        else:
            found[key] = value
    return found


ABSENT = "absent"


def differences(name: str, base: str) -> dict[str, Any]:
    """Options of a configuration that are not those of another."""
    own, others = options(name), options(base)
    return {
        key: own.get(key, ABSENT)
        for key in own.keys() | others.keys()
        if own.get(key, ABSENT) != others.get(key, ABSENT)
    }


def experts(num_experts: int = 4, modules: tuple[str, ...] = ("feed_forward",)) -> dict[str, Any]:
    settings = {"num_experts": num_experts, "top_k": 1, "modules": list(modules)}
    return {"encoder_conf.experts": settings}


def sharing(
    groups: int = 2, individual: tuple[str, ...] = ("*norm*", "*.router"), **more: str
) -> dict[str, Any]:
    rule = {"modules": ["*"], "except": list(individual), "groups": groups, **more}
    return {"encoder_conf.sharing": [rule]}


def shared_dense(groups: int) -> dict[str, Any]:
    return {
        "encoder_conf.experts": ABSENT,
        **sharing(groups, ("*norm*",)),
        "model_conf.balance_weight": 0.0,  # there is nothing to balance, which the model refuses
    }


DENSE = {
    "encoder": "conformer",
    "encoder_conf.experts": ABSENT,
    "encoder_conf.sharing": ABSENT,
    "model_conf.balance_weight": 0.0,
}
LINEAR1024 = {"encoder_conf.linear_units": 1024}

FROM_MAIN: dict[str, dict[str, Any]] = {
    "train_conformer_e2": {**DENSE, "encoder_conf.num_blocks": 2},
    "train_conformer_linear416": {**DENSE, "encoder_conf.linear_units": 416},
    "train_conformer_size184_linear1504": {
        **DENSE,
        "encoder_conf.output_size": 184,
        "encoder_conf.linear_units": 1504,
        "model_conf.teacher_output_size": 256,
    },
    "train_moe_conformer_e2": {"encoder_conf.num_blocks": 2, "encoder_conf.sharing": ABSENT},
    "train_moe_share_conformer_both_feed_forwards": experts(
        modules=("feed_forward", "feed_forward_macaron")
    ),
    "train_moe_share_conformer_cyclic": sharing(order="cyclic"),
    "train_moe_share_conformer_experts2": experts(2),
    "train_moe_share_conformer_experts8": experts(8),
    "train_moe_share_conformer_groups1": sharing(1),
    "train_moe_share_conformer_groups3": sharing(3),
    "train_moe_share_conformer_groups4": sharing(4),
    "train_moe_share_conformer_linear1024": LINEAR1024,
    "train_moe_share_conformer_no_distill": {"model_conf.distill_weight": 0.0},
    "train_moe_share_conformer_shared_norm": sharing(individual=("*.router",)),
    "train_moe_share_conformer_shared_router": sharing(individual=("*norm*",)),
    "train_share_conformer_groups2": shared_dense(2),
    "train_share_conformer_groups4": shared_dense(4),
    "train_share_conformer_groups4_linear1024": {**shared_dense(4), **LINEAR1024},
}
TEACHERS = ["train_teacher_conformer_linear1024", "train_teacher_e_branchformer"]
E_BRANCHFORMER = "train_moe_share_e_branchformer"


def test_no_configuration_is_left_out() -> None:
    assert sorted([*FROM_MAIN, *TEACHERS, E_BRANCHFORMER]) == TUNING


@pytest.mark.parametrize("name", FROM_MAIN)
def test_difference_from_the_main_system(name: str) -> None:
    assert differences(name, MAIN) == FROM_MAIN[name]


def test_teachers_differ_in_the_encoder() -> None:
    assert differences(TEACHERS[0], TEACHER) == LINEAR1024
    changed = differences(TEACHERS[1], TEACHER)
    assert changed.pop("encoder") == "e_branchformer"
    assert all(key.startswith("encoder_conf.") for key in changed)


def test_e_branchformer_is_to_its_teacher_what_the_conformer_is_to_its() -> None:
    design = differences(MAIN, TEACHER)
    assert design.pop("encoder") == "moe_share_conformer"
    same = differences(E_BRANCHFORMER, TEACHERS[1])
    assert same.pop("encoder") == "moe_share_e_branchformer"
    assert same == design


@pytest.mark.parametrize("name", TUNING)
def test_header_says_what_it_is_for(name: str) -> None:
    lines = (ROOT / file_of(name)).read_text("utf-8").splitlines()
    header = lines[: next(n for n, line in enumerate(lines) if not line.startswith("# "))]
    assert 2 <= len(header) <= 4


def test_documentation_says_what_each_is_for() -> None:
    document = DOCUMENT.read_text("utf-8")
    for name in (*TUNING, *SYSTEMS):
        assert f"`{name}.yaml`" in document


@pytest.fixture(scope="module")
def profiles() -> dict[str, Any]:
    from espnet_moe_share.profiling.profile import profile

    return {
        name: dataclasses.replace(profile(ROOT / file_of(name)), config=str(file_of(name)))
        for name in (TEACHER, MAIN, *TUNING, *SYSTEMS)
    }


@pytest.mark.slow
def test_table_of_the_documentation(profiles: dict[str, Any]) -> None:
    """If this fails, paste what the commands above the tables in the document print."""
    from espnet_moe_share.profiling.report import as_markdown

    table = as_markdown(list(profiles.values())).splitlines()
    heading, rows = table[:2], table[2:]
    lines = DOCUMENT.read_text("utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line == heading[0]]
    assert len(starts) == 2
    shown: list[str] = []
    for start in starts:
        shown += lines[start + 2 : lines.index("", start)]
    assert sorted(shown) == sorted(rows)  # how a shell sorts file names depends on its locale


def test_the_other_systems_train_like_the_main_one() -> None:
    """Features, decoder, batches and optimiser; only encoder and model are theirs."""
    for name in SYSTEMS:
        changed = differences(name, MAIN)
        assert all(key.startswith(("encoder", "model_conf.")) for key in changed), (name, changed)


@pytest.mark.slow
def test_published_sizes(profiles: dict[str, Any]) -> None:
    """Of ESPnet's recipe, in millions."""
    for name, published in ((TEACHER, 46.25), (TEACHERS[1], 37.88)):
        assert round(profiles[name].stored["total_params"] / 1e6, 2) == published


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counterpart", "key", "tolerance"),
    [
        ("train_conformer_linear416", MAIN, "encoder_layer_params", 0.004),
        ("train_conformer_size184_linear1504", MAIN, "total_params", 0.001),
        ("train_moe_conformer_e2", MAIN, "encoder_layer_params", 0.004),
        (
            "train_share_conformer_groups4_linear1024",
            "train_moe_share_conformer_linear1024",
            "encoder_layer_params",
            0.001,
        ),
        ("train_conformer_e2", "train_share_conformer_groups2", "encoder_layer_params", 0.006),
    ],
)
def test_controls_of_equal_size(
    name: str, counterpart: str, key: str, tolerance: float, profiles: dict[str, Any]
) -> None:
    ratio = profiles[name].stored[key] / profiles[counterpart].stored[key]
    assert abs(ratio - 1) < tolerance


@pytest.mark.slow
def test_the_papers_third(profiles: dict[str, Any]) -> None:
    assert round(profiles["train_moe_share_conformer_linear1024"].share_of_dense, 3) == 0.334
    teacher = profiles["train_teacher_conformer_linear1024"].stored
    assert profiles["train_moe_share_conformer_linear1024"].dense == teacher


@pytest.mark.slow
def test_experts_are_stored_but_not_active(profiles: dict[str, Any]) -> None:
    """What the control without experts stores, the main system uses; and its routers."""
    routers = 12 * 4 * 256
    control = profiles["train_share_conformer_groups2"]
    for key, active in profiles[MAIN].active.items():
        assert active == control.stored[key] + routers
    frames = (profiles[MAIN].encoder_macs - control.encoder_macs) / routers
    assert frames == (((1 + 10 * 16000 // 128) - 1) // 2 - 1) // 2
