"""The command, from its arguments to its output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import config, dense_config

from espnet_moe_share.bin import profile

KEYS = [
    "config",
    "encoder_layer_params",
    "dense_encoder_layer_params",
    "encoder_params",
    "total_params",
    "active_params",
    "encoder_gmacs_per_second",
    "checkpoint_bytes",
]


@pytest.fixture
def configs(tmp_path: Path) -> list[str]:
    """A student's and its teacher's configuration."""
    paths = []
    for name, settings in (("student", config()), ("teacher", dense_config())):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        paths.append(str(path))
    return paths


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["profile", *arguments])
    profile.main()


def test_json(
    configs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *configs, "--json", "--speech_seconds", "1")
    student, teacher = json.loads(capsys.readouterr().out)
    assert list(student) == list(teacher) == KEYS
    assert [student["config"], teacher["config"]] == configs
    dense = teacher["encoder_layer_params"]
    assert student["dense_encoder_layer_params"] == dense
    assert teacher["dense_encoder_layer_params"] == dense
    assert student["active_params"] < student["total_params"]
    assert teacher["active_params"] == teacher["total_params"]
    # top-1 experts add the router; sharing saves projections of positions
    ratio = student["encoder_gmacs_per_second"] / teacher["encoder_gmacs_per_second"]
    assert 0.95 < ratio < 1.05
    assert ratio != 1


def test_text(
    configs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *configs, "--speech_seconds", "1")
    student, teacher = capsys.readouterr().out.strip().split("\n\n")
    assert student.splitlines()[0] == f"{configs[0]}: encoder moe_share_conformer, 7 tokens"
    assert "  shared by layers 0-1, by layers 2-3 (" in student
    assert "  individual in layers 0-3 (" in student
    assert "active if all layers that share experts choose different ones" in student
    assert "active if" not in teacher and "shared by" not in teacher


def test_markdown(
    configs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *configs, "--markdown", "--speech_seconds", "1")
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1
    assert [row[0].strip() for row in rows[2:]] == [f"`{path}`" for path in configs]


def test_second_configuration_is_wrong(
    configs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tmp_path / "decode.yaml"
    wrong.write_text("beam_size: 10\n")
    with pytest.raises(SystemExit, match=r"profile: error: .*decode.yaml: 'beam_size' is no opt"):
        run(monkeypatch, configs[0], str(wrong), "--json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.yaml"], "espnet_moe_share.bin.profile: error: gone.yaml: no such file"),
        (["x", "--vocab_size", "3"], "3: a number of tokens from 4 is needed"),
        (["x", "--speech_seconds", "-1"], "-1: a number of seconds above 0 is needed"),
        (["x", "--json", "--markdown"], "not allowed with argument"),
        ([], "the following arguments are required: config"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "espnet_moe_share.bin.profile", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
