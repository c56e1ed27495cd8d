"""The unmodified asr.sh of the installed ESPnet release, driven by the recipe's run.sh."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_recipe import DECODED, STUDENT, TEACHER, Recipe, Trained, columns

pytestmark = pytest.mark.slow

STATS = "exp/asr_stats_raw_zh_char_sp"
# For machines without sox: what asr.sh's stage 2 and format_wav_scp.py call it for.
SOX = """\
import io, sys
import soundfile, soxr
assert sys.argv[2:-1] == ["-t", "wav", "-", "speed"], sys.argv
samples, rate = soundfile.read(sys.argv[1], dtype="float32")
faster = soxr.resample(samples, rate * float(sys.argv[-1]), rate, quality="VHQ")
wav = io.BytesIO()
soundfile.write(wav, faster, rate, format="WAV", subtype="PCM_16")
sys.stdout.buffer.write(wav.getvalue())
"""
# Runs the jobs of an array one after the other, with what conf/slurm.conf lets them have: PATH.
SBATCH = """\
#!/usr/bin/env bash
for script in "$@"; do :; done
[[ " $* " == *" --export=PATH "* && " $* " == *" -p cpu "* ]] || exit 1
tasks=$(echo " $* " | sed -n 's/.* --array \\([0-9]*\\)-\\([0-9]*\\) .*/\\1 \\2/p')
echo "Submitted batch job 1"
for task in $(seq ${tasks:-1 1}); do
    env -i PATH="${PATH}" SLURM_ARRAY_TASK_ID="${task}" bash "${script}" </dev/null >/dev/null 2>&1
done &
"""


@pytest.fixture(scope="session")
def checkout(pytestconfig: pytest.Config) -> Path:
    """ESPNET_ROOT, or the scripts out of ESPnet's source distribution, fetched once."""
    if root := os.environ.get("ESPNET_ROOT"):
        return Path(root)
    release = f"espnet-{importlib.metadata.version('espnet')}"
    kept = pytestconfig.cache.mkdir("espnet_checkout") / release
    if kept.is_dir():
        return kept
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "espnet", "--no-build-isolation", "--retries", "1"]
        command += ["--timeout", "15", "--dest", folder, release.replace("-", "==")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["pip failed"]
            pytest.skip(f"ESPnet's source distribution cannot be had: {said[-1]}")
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            wanted = [f"{release}/{name}" for name in ("egs2/TEMPLATE/asr1/", "tools/", "version")]
            members = [m for m in archive if m.name.startswith(tuple(wanted))]
            archive.extractall(folder, members, filter="data")
        os.rename(Path(folder) / release, kept)
    return kept


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def driven(
    tmp_path_factory: pytest.TempPathFactory, trained: Trained, checkout: Path
) -> Iterator[tuple[Recipe, str]]:
    """Data, statistics, a student of the given teacher, then decoding of both as jobs of slurm."""
    folder = tmp_path_factory.mktemp("espnet_checkout")
    copied = [f"{TEACHER}/{name}" for name in ("config.yaml", "valid.acc.ave_2best.pth")]
    recipe = trained.recipe.clone(folder / "recipe")
    for name in copied:
        (recipe.directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.recipe.directory / name, recipe.directory / name)
    model = recipe.directory / TEACHER / "valid.acc.ave.pth"
    model.symlink_to("valid.acc.ave_2best.pth")
    programs = folder / "programs"
    programs.mkdir()
    if shutil.which("sox") is None:
        write_program(programs / "sox", f"#!{sys.executable}\n{SOX}")
    write_program(programs / "sbatch", SBATCH)
    write_program(programs / "squeue", "#!/bin/sh\n")
    environment = recipe.environment
    environment["PATH"] += f":{programs}"
    environment["ESPNET_ROOT"] = str(checkout)
    said = ""
    teacher = ("--teacher_exp", TEACHER, "--nj", "1", "--inference_nj", "1")
    for backend, stages in (("local", ("--stop_stage", "11")), ("slurm", ("--stage", "12"))):
        done = subprocess.run(
            recipe.command(*teacher, *stages),
            cwd=recipe.directory,
            env={**environment, "cmd_backend": backend},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    yield recipe, said


def files(folder: Path) -> set[str]:
    """Names of files, without bookkeeping of either driver and what has a time in its name."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith((".", "events.out"))
        and not re.search(r"\.log$|/logdir/", str(path))
    }


def test_same_stages_and_tree(driven: tuple[Recipe, str], trained: Trained) -> None:
    recipe, said = driven
    begun = re.findall(r"\(asr\.sh:\d+:main\) Stage (\d+): ", said)
    assert begun == [*"12345", "10", "11", "12", "13", "12", "13", "14"]
    for name in (STATS, STUDENT, f"{TEACHER}/{DECODED}", "data/zh_token_list"):
        own, found = (files(r.directory / name) for r in (trained.recipe, recipe))
        assert own - found == set(), name
    for name in ("data/zh_token_list/char/tokens.txt", "dump/raw/lm_train.txt"):
        own, found = (r.directory / name for r in (trained.recipe, recipe))
        assert found.read_text("utf-8") == own.read_text("utf-8")
    for name in ("train_sp", "dev", "test", "org/train_sp", "org/dev"):
        own, found = (
            columns(r.directory / "dump/raw" / name / "text") for r in (trained.recipe, recipe)
        )
        assert found == own


def test_same_decoding_and_scores(driven: tuple[Recipe, str], trained: Trained) -> None:
    """asr.sh has written the audio anew and has decoded by jobs that got nothing but PATH."""
    recipe, _ = driven
    for name in ("text", "token", "token_int", "score"):
        own, found = (r.directory / TEACHER / DECODED / name for r in (trained.recipe, recipe))
        assert columns(found) == columns(own)
    rows = [
        re.findall(r"^\|teacher/.*$", (r.directory / "exp/RESULTS.md").read_text("utf-8"), re.M)
        for r in (trained.recipe, recipe)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    log = recipe.directory / TEACHER / DECODED / "logdir" / "asr_inference.1.log"
    assert "SLURM_ARRAY_TASK_ID=1" in log.read_text("utf-8")


def test_student_has_learned_from_the_teacher(driven: tuple[Recipe, str], trained: Trained) -> None:
    recipe, said = driven
    own, found = (
        yaml.safe_load((r.directory / STUDENT / "config.yaml").read_text("utf-8"))
        for r in (trained.recipe, recipe)
    )
    # Every option that ESPnet's trainer knows, teacher_model_file included.
    assert found == own
    log = (recipe.directory / STUDENT / "train.log").read_text("utf-8")
    distances = [float(d) for d in re.findall(r"\[train\].*?loss_distill=([-\d.e]+)", log)]
    assert len(distances) == 2 and 0 < distances[1] < distances[0]
    assert f"|student|{DECODED}|" in said
    assert (recipe.directory / STUDENT / "RESULTS.md").is_file()
    assert len(list((recipe.directory / STUDENT).glob("*.zip"))) == 1
