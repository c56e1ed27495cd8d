"""local/grid.sh runs what is missing, and the table says mean and spread."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import grid_result
import grid_table
import pytest
from driver_data import LOCAL

USAGE = {
    "layers": [
        {"num_experts": 4, "load": [0.25] * 4, "load_entropy": 1.386294, "routing_entropy": 0.0},
        {"num_experts": 4, "load": [0.75, 0.25, 0, 0], "load_entropy": 0.0, "routing_entropy": 0.0},
    ],
    "neighbours": [{"agreement": 0.3, "mutual_information": 0.1}],
}


def result(system: str, seed: int, cer: float, usage: dict[str, Any] | None) -> dict[str, Any]:
    parameters = {"encoder_layer_params": 1234, "encoder_params": 2000, "total_params": 3000}
    return {
        "system": system,
        "seed": seed,
        "cer": {"mini_test": cer},
        "parameters": parameters,
        "expert_usage": usage,
    }


def test_table() -> None:
    results = [
        result("moe", 2, 14.0, USAGE),
        result("dense", 1, 20.0, None),
        result("moe", 1, 10.0, USAGE),
    ]
    assert grid_table.table(results).splitlines()[2:] == [
        "|dense|1,234|3,000|1|20.0|-|-|-|-|-|",
        "|moe|1,234|3,000|1 2|12.0 ± 2.8 (10.0, 14.0)|0.50 ± 0.00|0.50 ± 0.00|0.00 ± 0.00"
        "|0.30 ± 0.00|0.10 ± 0.00|",
    ]


def test_result_of_another_configuration_is_not_current(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("seed: 1\n")
    origin = grid_result.made_from(config, 3, "")
    assert not grid_result.is_current(tmp_path, origin)
    (tmp_path / grid_result.RESULT).write_text(json.dumps({"made_from": origin}))
    assert grid_result.is_current(tmp_path, origin)
    assert not grid_result.is_current(tmp_path, grid_result.made_from(config, 3, "--max_epoch 2"))
    config.write_text("seed: 2\n")
    assert not grid_result.is_current(tmp_path, grid_result.made_from(config, 3, ""))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose run.sh and python3 only write down how they were called."""
    recipe = tmp_path / "recipe"
    (recipe / "bin").mkdir(parents=True)
    os.symlink(LOCAL, recipe / "local")
    os.symlink(LOCAL.parent / "conf", recipe / "conf")
    (recipe / "path.sh").write_text("export PATH=$PWD/bin:$PATH\n")
    # The first system's first result is there, everything else is not.
    scripts = {
        "run.sh": 'echo "run.sh $*" >> calls',
        "bin/python3": (
            'if [[ "$*" = *--check ]]; then [[ "$*" = *_dense_seed1* ]]; '
            'else echo "python3 $*" >> calls; fi'
        ),
    }
    for name, body in scripts.items():
        (recipe / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (recipe / name).chmod(0o755)
    return recipe


def run_grid(recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["local/grid.sh", *options]
    return subprocess.run(command, cwd=recipe, capture_output=True, text=True)


def test_what_is_done_is_skipped(recipe: Path) -> None:
    options = ["--systems", "dense dense_shared", "--seeds", "1 2", "--asr_args", "--max_epoch 2"]
    done = run_grid(recipe, *options, "--corpus=mini_noisy")
    assert done.returncode == 0, done.stderr
    assert "grid_dense_seed1: done" in done.stdout
    calls = (recipe / "calls").read_text().splitlines()
    trained = [call for call in calls if call.startswith("run.sh") and "--stage 11" in call]
    assert len(trained) == 3
    assert trained[0] == (
        "run.sh --corpus mini_noisy --teacher_config none --asr_config"
        " conf/grid/train_dense_shared.yaml --asr_tag grid_dense_shared_seed1"
        " --asr_args --seed 1 --max_epoch 2 --expdir exp --dumpdir dump"
        " --inference_asr_model valid.acc.ave.pth --stage 11"
    )
    assert "--stop_stage 10" in calls[0]
    assert sum("grid_table.py" in call for call in calls) == 2


def test_forms_of_options(recipe: Path) -> None:
    done = run_grid(recipe, "--seeds=7", "--systems=dense", "--asr-args=--max_epoch 2")
    assert done.returncode == 0, done.stderr
    trained = (recipe / "calls").read_text().splitlines()[1]
    assert trained == (
        "run.sh --teacher_config none --asr_config conf/grid/train_dense.yaml"
        " --asr_tag grid_dense_seed7 --asr_args --seed 7 --max_epoch 2 --expdir exp --dumpdir dump"
        " --inference_asr_model valid.acc.ave.pth --stage 11"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--systems", "dense sparse"], "--systems sparse: no conf/grid/train_sparse.yaml"),
        (["--seeds", "one"], "--seeds one: numbers are needed"),
        (["--asr_config", "x.yaml"], "--asr_config is the grid's own"),
        (["--seeds=one"], "--seeds one: numbers are needed"),
        (["--stop-stage=3"], "--stop-stage is the grid's own"),
        (["--seeds"], "option --seeds needs a value"),
        (["dense"], "unexpected argument 'dense'"),
    ],
)
def test_refusals(recipe: Path, options: list[str], said: str) -> None:
    done = run_grid(recipe, *options)
    assert done.returncode == 2
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (recipe / "calls").exists()
