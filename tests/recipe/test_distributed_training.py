"""The recipe's training in two processes on the CPU, started in the ways that docs/distributed.md
names: by torchrun, and by the driver with slurm's srun. A student with its teacher.
"""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_recipe import ROOT, STUDENT, TEACHER, Trained, assert_one_line_error

pytestmark = pytest.mark.slow

# Stands in for slurm: each "machine" is a process here, with the environment that slurm gives it.
SRUN = """#!{python}
import os, subprocess, sys

arguments = sys.argv[1:]
options = {{}}
while arguments[0].startswith("--"):
    name = arguments.pop(0)
    options[name] = arguments.pop(0)
nodes = options["--nodes"]
assert options["--ntasks"] == nodes and options["--ntasks-per-node"] == "1", options
step = {{
    **{{"SLURM_NTASKS": nodes, "SLURM_STEP_NUM_NODES": nodes}},
    **{{"SLURM_STEP_NODELIST": "node[0-9]", "SLURM_LOCALID": "0"}},
}}
processes = [
    subprocess.Popen(
        arguments,
        env={{**os.environ, **step, **dict.fromkeys(("SLURM_PROCID", "SLURM_NODEID"), rank)}},
    )
    for rank in map(str, range(int(nodes)))
]
sys.exit(max(process.wait() for process in processes))
"""


def check(trained: Trained, experiment: Path) -> None:
    """Two processes have trained the student for two epochs, and one has written its files."""
    options = yaml.safe_load((experiment / "config.yaml").read_text("utf-8"))
    assert options["distributed"] is True and options["unused_parameters"] is False

    states: dict[str, Any] = torch.load(experiment / "checkpoint.pth", weights_only=True)
    # Batches of 6 utterances are divided among the processes: as many updates as in one process.
    (steps,) = {int(moment["step"]) for moment in states["optimizers"][0]["state"].values()}
    assert steps == 2 * 36 // 6
    figures = states["reporter"]["stats"][2]["train"]
    assert figures["loss_distill"] > 0
    # four layers: 1 for each where experts are used alike, 4 where one takes all
    assert 3.5 < figures["loss_balance"] <= 16
    # A teacher that was a part of the model would be in its checkpoints.
    alone = trained.recipe.directory / STUDENT / "valid.acc.ave.pth"
    averaged = torch.load(experiment / "valid.acc.ave.pth", weights_only=True)
    assert averaged.keys() == torch.load(alone, weights_only=True).keys()
    assert all(tensor.isfinite().all() for tensor in averaged.values())


def documented_command(program: str) -> list[str]:
    """The command of docs/distributed.md for processes on a CPU, without its `...`."""
    text = (ROOT / "docs" / "distributed.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if program in block and "gloo" in block)
    command = shlex.split(block.replace("\\\n", " "))
    assert command[-1] == "..."
    return command[:-1]


def test_torchrun(tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = trained.recipe.directory
    monkeypatch.chdir(directory)  # config.yaml names the statistics from there
    # The recipe's own training, with another place.
    first_line = (directory / STUDENT / "train.log").read_text("utf-8").split("\n")[0]
    arguments = shlex.split(first_line.removeprefix("# "))
    assert arguments[1:5] == ["-m", "espnet_moe_share.launch", "-m", "espnet2.bin.asr_train"]
    experiment = tmp_path / "exp"
    arguments[arguments.index("--output_dir") + 1] = str(experiment)
    command = documented_command("torchrun")
    assert command[0] == "torchrun"
    # torchrun is one of torch's programs, beside the interpreter
    command[0] = str(Path(sys.executable).parent / "torchrun")

    done = trained.recipe.call(*command, *arguments[5:])

    assert done.returncode == 0, done.stderr
    # A teacher that was a module would be wrapped, broadcast and reported as unused.
    assert "find_unused_parameters" not in done.stderr
    check(trained, experiment)


def test_two_machines_of_slurm(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN.format(python=sys.executable))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    options = ["--stage", "11", "--stop_stage", "11", "--num_nodes", "2", "--teacher_exp", TEACHER]
    options += ["--asr_tag", "two_machines", "--expdir", str(tmp_path / "exp")]
    options += ["--asr_stats_dir", "exp/asr_stats_raw_zh_char_sp"]

    refused = trained.recipe.run(*options)
    assert_one_line_error(refused, "asr.sh", "--num_nodes 2 needs a slurm allocation")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    done = trained.recipe.run(*options)

    assert done.returncode == 0, done.stdout + done.stderr
    check(trained, tmp_path / "exp" / "asr_two_machines")
    left = [path.name for path in (tmp_path / "exp").iterdir()]
    assert left == ["asr_two_machines"]
