"""Registration in ESPnet's tables."""

import copy
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
from tiny_models import build, config

import espnet_moe_share
from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder
from espnet_moe_share.encoder.e_branchformer import MoeShareEBranchformerEncoder
from espnet_moe_share.encoder.transformer import MoeShareTransformerEncoder
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.model import MoeShareASRModel

TASKS = ["espnet2.tasks.asr", "espnet3.systems.esp2_asr.task"]
NAMES = [
    ("encoder_choices", "moe_share_conformer", MoeShareConformerEncoder),
    ("encoder_choices", "moe_share_transformer", MoeShareTransformerEncoder),
    ("encoder_choices", "moe_share_e_branchformer", MoeShareEBranchformerEncoder),
    ("model_choices", "moe_share", MoeShareASRModel),
]


@pytest.fixture
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ESPnet is without us; undone after the test."""
    for task in TASKS:
        for table in ("encoder_choices", "model_choices"):
            choices = getattr(import_module(task), table)
            monkeypatch.setattr(choices, "classes", copy.copy(choices.classes))
        for table, name, _ in NAMES:
            getattr(import_module(task), table).classes.pop(name, None)


@pytest.mark.parametrize("task", TASKS)
def test_both_tables_twice_in_a_row(unregistered: None, task: str) -> None:
    module = import_module(task)
    assert not any("moe_share" in name for name in module.encoder_choices.choices())
    espnet_moe_share.register()
    espnet_moe_share.register()
    for table, name, cls in NAMES:
        choices = getattr(module, table)
        assert choices.get_class(name) is cls
        assert choices.choices().count(name) == 1


def test_parser_and_build() -> None:
    from espnet_moe_share.task import ASRTask

    espnet_moe_share.register()
    arguments = ["--encoder", "moe_share_conformer", "--model", "moe_share"]
    arguments += ["--encoder_conf", "experts={num_experts: 3}", "--model_conf", "ctc_weight=0.4"]
    args = ASRTask.get_parser().parse_args(arguments)
    assert (args.encoder, args.model) == ("moe_share_conformer", "moe_share")
    assert args.encoder_conf == {"experts": {"num_experts": 3}}
    model = build(config())
    assert type(model) is MoeShareASRModel
    assert type(model.encoder) is MoeShareConformerEncoder


@pytest.mark.parametrize(
    ("encoder", "argument", "default"),
    [
        ("moe_share_conformer", "cnn_module_kernel", 31),
        ("moe_share_transformer", "positionwise_conv_kernel_size", 1),
        ("moe_share_e_branchformer", "merge_conv_kernel", 3),
    ],
)
def test_default_configuration_shows_all_arguments(
    monkeypatch: pytest.MonkeyPatch, encoder: str, argument: str, default: int
) -> None:
    """What ``--print_config`` prints and config.yaml keeps; a model can be built from it."""
    from espnet_moe_share.task import ASRTask

    arguments = ["--encoder", encoder, "--model", "moe_share"]
    monkeypatch.setattr("sys.argv", ["asr_train", *arguments])
    shown = ASRTask.get_default_config()
    assert shown["encoder_conf"][argument] == default
    assert {"experts", "sharing"} <= set(shown["encoder_conf"])
    assert shown["model_conf"]["balance_scope"] == "layer"
    assert shown["model_conf"]["lsm_weight"] == 0.0
    settings = config(encoder=encoder)
    small = {"output_size": 8, "linear_units": 12, "num_blocks": 1}
    settings["encoder_conf"] = {**shown["encoder_conf"], **small}
    assert build(settings).encoder.output_size() == 8


def test_configuration_without_the_plugin(unregistered: None) -> None:
    """ESPnet's own message names the choices; with the plug-in the same file builds."""
    settings = config()
    with pytest.raises(ValueError, match=r"--encoder must be one of .*moe_share_conformer"):
        build(settings)
    espnet_moe_share.register()
    build(settings)


class Foreign(MoeShareConformerEncoder):
    """Somebody else's encoder."""


@pytest.mark.parametrize("task", TASKS)
def test_foreign_class_under_our_name(unregistered: None, task: str) -> None:
    classes = import_module(task).encoder_choices.classes
    classes["moe_share_conformer"] = Foreign
    with pytest.raises(ConfigurationError, match=rf"'moe_share_conformer' in {task}\.encoder"):
        espnet_moe_share.register()
    assert classes["moe_share_conformer"] is Foreign


@pytest.mark.parametrize("what", ["table", "classes", "base"])
def test_espnet_without_what_we_rely_on(
    unregistered: None, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    task: Any = import_module(TASKS[0])
    if what == "table":
        monkeypatch.delattr(task, "encoder_choices")
    elif what == "classes":
        monkeypatch.setattr(task.encoder_choices, "classes", ["conformer"])
    else:
        monkeypatch.setattr(task.encoder_choices, "base_type", int)
    expected = rf"ESPnet {version('espnet')} has no usable espnet2\.tasks\.asr\.encoder_choices"
    with pytest.raises(ImportError, match=expected) as refused:
        espnet_moe_share.register()
    assert "the tested release is 202611" in str(refused.value)


def test_espnet3_builds_by_the_name_of_our_task() -> None:
    from espnet3.utils.task_utils import get_espnet_model

    settings = config()
    model = get_espnet_model("espnet_moe_share.task.ASRTask", settings)
    assert type(model) is MoeShareASRModel
