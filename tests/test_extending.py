"""docs/extending.md does what it says: its blocks are the files of a plug-in, installed and run."""

import copy
import importlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from tiny_models import build, config

import espnet_moe_share
from espnet_moe_share import registry
from espnet_moe_share.bin import profile
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts import router

ROOT = Path(__file__).resolve().parents[1]
TASKS = ["espnet2.tasks.asr", "espnet3.systems.esp2_asr.task"]


def files_of_the_page() -> dict[str, str]:
    """Blocks that begin with ``# <name of a file>``, joined by file."""
    text = (ROOT / "docs/extending.md").read_text("utf-8")
    found: dict[str, str] = defaultdict(str)
    for block in re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if named := re.match(r"# (\S+\.\w+)\n", block):
            found[named[1]] += block
    return dict(found)


def install(folder: Path, project: dict[str, Any]) -> None:
    """What pip writes of a pyproject.toml for importlib.metadata."""
    name, version = project["name"], project["version"]
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, installed; what is registered is forgotten after the test."""
    import_module("espnet_moe_share.task")  # registers, before there is a plug-in
    for name, text in files_of_the_page().items():
        (tmp_path / name).write_text(text, "utf-8")
    install(tmp_path, tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"])
    monkeypatch.setattr(registry, "_called_plug_ins", set())
    for task in TASKS:
        choices = import_module(task).encoder_choices
        monkeypatch.setattr(choices, "classes", copy.copy(choices.classes))
    routers = dict(router.ROUTERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    router.ROUTERS.clear()
    router.ROUTERS.update(routers)
    for name in ("my_plugin", "test_my_plugin"):
        sys.modules.pop(name, None)


def mini(folder: Path) -> dict[str, Any]:
    """The configuration that the page has the reader make."""
    base = yaml.safe_load((ROOT / "conf/train_moe_share_mini.yaml").read_text("utf-8"))
    return {**base, **yaml.safe_load((folder / "train.yaml").read_text("utf-8"))}


def test_folder_of_the_page_cannot_be_taken_for_the_module() -> None:
    """Python finds a folder beside which it starts before an installed module of its name."""
    (folder,) = re.findall(r"^```\n(\S+)/\n", (ROOT / "docs/extending.md").read_text("utf-8"), re.M)
    assert not folder.isidentifier()


def find_tests(module: ModuleType) -> list[Any]:
    return [value for name, value in vars(module).items() if name.startswith("test_")]


def test_tests_of_the_page(folder: Path) -> None:
    found = find_tests(import_module("test_my_plugin"))
    assert len(found) == 3
    for test in found:
        test()


def test_a_model_of_it_trains_and_is_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train.yaml").write_text(yaml.safe_dump(mini(folder)))
    monkeypatch.setattr(sys, "argv", ["profile", "train.yaml", "--speech_seconds", "0.5"])
    registry.register()
    profile.main()
    lines = capsys.readouterr().out.splitlines()
    assert "encoder moe_share_multiconv_conformer" in lines[0]
    assert "dense encoder's" in "".join(lines)  # which needs the signatures of both classes
    (routers,) = (line for line in lines if line.endswith(": feed_forward.router"))
    assert "shared by layers 0-2, by layers 3-5" in routers
    assert any("by layers 0,5, by layers 1,4, by layers 2-3" in line for line in lines)


def test_a_router_alone_in_one_of_our_encoders(folder: Path) -> None:
    settings = config()
    settings["encoder_conf"]["experts"]["router"] = "cosine"
    with pytest.raises(ConfigurationError, match="'router' must be linear, not 'cosine'; a"):
        build(settings)
    espnet_moe_share.register()
    model = build(settings)
    assert type(model.encoder.encoders[0].feed_forward.router).__name__ == "CosineRouter"


def test_a_plug_in_that_fails_is_named_and_asked_again(folder: Path) -> None:
    (folder / "my_plugin.py").write_text("def register() -> None:\n    raise OSError('no disk')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="no disk") as raised:
            registry.register()
        assert "my_plugin:register" in raised.value.__notes__[0]


def test_names_that_are_taken_and_classes_that_are_no_routers(folder: Path) -> None:
    registry.register_router("linear", router.TopKRouter)  # again: nothing happens
    other = type("Other", (router.TopKRouter,), {})
    with pytest.raises(ConfigurationError, match=r"router 'linear' is already .*TopKRouter"):
        registry.register_router("linear", other)
    with pytest.raises(ConfigurationError, match=r"must be a subclass of .*\.TopKRouter"):
        registry.register_router("mine", dict)
    assert list(router.ROUTERS) == ["linear"]


def test_upcycling_leaves_a_router_of_ones_own_as_it_was_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from tiny_models import encoder

    from espnet_moe_share.experts.upcycling import Upcycling, upcycle_layers

    class Scaled(router.TopKRouter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.scale = torch.nn.Parameter(torch.ones(1))

    monkeypatch.setitem(router.ROUTERS, "scaled", Scaled)
    student = encoder(name="moe_share_conformer", experts={"num_experts": 2, "router": "scaled"})
    before = [layer.feed_forward.router.weight.clone() for layer in student.encoders]
    sources = upcycle_layers(student.encoders, encoder(name="conformer").encoders, Upcycling())
    assert sources[1, "feed_forward.router.scale"] == "as the training would draw it"
    for layer, weight in zip(student.encoders, before):
        assert torch.equal(layer.feed_forward.router.weight, weight)
        assert layer.feed_forward.router.scale.item() == 1
