"""The same command after a kill: goes on where it was, neither loses nor repeats an epoch."""

import re
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_recipe import DECODED, TEACHER, Trained, columns, listing

pytestmark = pytest.mark.slow

EPOCHS = 6
REWRITTEN = (".lock", "RESULTS.md")
# --teacher_exp: the teacher is there already.
OPTIONS = (
    *("--stage", "11", "--stop_stage", "13", "--teacher_exp", TEACHER),
    *("--asr_tag", "killed", "--asr_args", f"--max_epoch {EPOCHS}"),
)


def epoch_of(experiment: Path) -> int:
    """Number of the last epoch of which ESPnet has written everything; 0: none."""
    latest = experiment / "latest.pth"
    return int(latest.resolve().name.removesuffix("epoch.pth")) if latest.exists() else 0


def started(log: Path) -> list[int]:
    return [int(n) for n in re.findall(r" (\d+)/\d+epoch started", log.read_text("utf-8"))]


def test_killed_in_training_and_in_decoding(tmp_path: Path, trained: Trained) -> None:
    copied = ("data", "dump", TEACHER, "exp/asr_stats_raw_zh_char_sp")
    recipe = trained.recipe.clone(tmp_path / "recipe", *copied)
    experiment = recipe.directory / "exp/asr_killed"
    teacher = listing(recipe.directory / TEACHER)

    said = recipe.kill_when(lambda: epoch_of(experiment) >= 2, *OPTIONS)
    assert f"training: {TEACHER}" not in said
    reached = epoch_of(experiment)
    assert reached < EPOCHS
    assert not (experiment / "valid.acc.ave.pth").exists()
    assert zipfile.is_zipfile(experiment / f"{reached}epoch.pth")

    # Killed again once one of the two jobs has its first utterance of two.
    output = experiment / DECODED
    job_log = output / "logdir/asr_inference.1.log"
    said = recipe.kill_when(
        lambda: job_log.exists() and "speech length: " in job_log.read_text("utf-8"), *OPTIONS
    )
    assert "training resumed; " in said
    epochs = started(experiment / "train.log")
    # One epoch more may have been complete when the kill came, its link latest.pth not yet.
    assert epochs in (
        list(range(reached + 1, EPOCHS + 1)),
        list(range(reached + 2, EPOCHS + 1)),
    )
    assert not (output / "text").exists()
    states = torch.load(experiment / "checkpoint.pth", weights_only=True)
    stats = states["reporter"]["stats"]
    assert [*stats] == list(range(1, EPOCHS + 1)) and states["reporter"]["epoch"] == EPOCHS
    # As many updates as an uninterrupted training makes: 36 utterances in batches of 6.
    (steps,) = {int(moment["step"]) for moment in states["optimizers"][0]["state"].values()}
    assert steps == EPOCHS * 36 // 6
    trained_files = {
        name: stamp for name, stamp in listing(experiment).items() if "decode_" not in name
    }

    done = recipe.run(*OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "asr_killed: already trained" in done.stdout
    hypotheses = columns(output / "text")
    assert hypotheses.keys() == columns(recipe.directory / "data/test/text").keys()
    assert all(hypotheses.values())
    assert f"|student/{DECODED}|4|" in (recipe.directory / "exp/RESULTS.md").read_text("utf-8")
    after = listing(experiment)
    assert not {
        name for name in trained_files if name != ".lock" and after.get(name) != trained_files[name]
    }
    # A teacher that is given is scored, and decoded only where it has not been.
    now = listing(recipe.directory / TEACHER)
    assert now.keys() == teacher.keys()
    kept = [name for name in now if "/score_" not in name and not name.endswith(REWRITTEN)]
    assert not {name for name in kept if now[name] != teacher[name]}
