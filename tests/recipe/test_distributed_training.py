"""ESPnet's own trainer in two processes on the CPU, a student with its teacher."""

import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from tiny_recipe import STUDENT, Trained

pytestmark = pytest.mark.slow


def test_two_processes(tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = trained.recipe.directory
    monkeypatch.chdir(directory)  # config.yaml names the statistics from there
    # The very command of the recipe, with another place and two processes.
    first_line = (directory / STUDENT / "train.log").read_text("utf-8").split("\n")[0]
    command = shlex.split(first_line.removeprefix("# "))
    assert command[1:5] == ["-m", "espnet_moe_share.launch", "-m", "espnet2.bin.asr_train"]
    experiment = tmp_path / "exp"
    command[command.index("--output_dir") + 1] = str(experiment)
    command += ["--multiprocessing_distributed", "false", "--local_rank", "none"]
    command += ["--dist_world_size", "2", "--dist_backend", "gloo"]
    command += ["--dist_init_method", f"file://{tmp_path}/rendezvous"]

    def train(rank: int) -> subprocess.CompletedProcess[str]:
        return trained.recipe.call(*command, "--dist_rank", str(rank))

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(train, range(2)))
    for done in ended:
        assert done.returncode == 0, done.stderr
        # A teacher that was a module would be wrapped, broadcast and reported as unused.
        assert "find_unused_parameters" not in done.stderr
    options = yaml.safe_load((experiment / "config.yaml").read_text("utf-8"))
    assert options["distributed"] is True and options["unused_parameters"] is False

    from espnet_moe_share.task import ASRTask

    model, _ = ASRTask.build_model_from_file(
        directory / STUDENT / "config.yaml", experiment / "valid.acc.ave.pth"
    )
    assert not [key for key in model.state_dict() if key.startswith(("module.", "teacher"))]
    states = torch.load(experiment / "checkpoint.pth", weights_only=True)
    # Batches of 6 utterances are divided among the processes: as many updates as in one process.
    (steps,) = {int(moment["step"]) for moment in states["optimizers"][0]["state"].values()}
    assert steps == 2 * 36 // 6
    statistics = states["reporter"]["stats"]
    assert statistics[2]["train"]["loss_distill"] > 0
    before = torch.load(directory / STUDENT / "1epoch.pth", weights_only=True)
    after = states["model"]
    assert after.keys() == before.keys()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
