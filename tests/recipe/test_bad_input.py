"""Bad input to the recipe: one clear line, and nothing that was there is lost."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from tiny_recipe import (
    CONFIGURATIONS,
    DECODED,
    ROOT,
    STUDENT,
    TEACHER,
    Recipe,
    Trained,
    assert_one_line_error,
    listing,
    transcript_of,
)

STATS = "exp/asr_stats_raw_zh_char_sp"
TEST_WAV = "data_aishell/wav/test/S0004/BAC009S0004W0002.wav"


@pytest.fixture
def fresh(tmp_path: Path, corpus: Path) -> Recipe:
    """A recipe that has not run, with a corpus of its own to spoil."""
    return Recipe.make(tmp_path / "recipe", shutil.copytree(corpus, tmp_path / "corpus"))


def cut_transcript(corpus: Path, utterance: str, text: str) -> None:
    path = transcript_of(corpus)
    lines = path.read_text("utf-8").splitlines()
    changed = [f"{utterance} {text}" if line.startswith(utterance) else line for line in lines]
    path.write_text("\n".join(changed) + "\n", "utf-8")


def header_only(corpus: Path) -> None:
    soundfile.write(corpus / TEST_WAV, [], 16000, subtype="PCM_16")


@pytest.mark.parametrize(
    ("spoil", "program", "said"),
    [
        (lambda c: (c / TEST_WAV).write_bytes(b""), "prepare_aishell.py", (TEST_WAV, "unreadable")),
        (header_only, "prepare_aishell.py", (TEST_WAV, "empty audio")),
        (
            lambda c: (c / TEST_WAV).write_bytes(b"no audio" * 99),
            "prepare_aishell.py",
            (TEST_WAV, "unreadable"),
        ),
        (
            lambda c: cut_transcript(c, "BAC009S0002W0000", ""),
            "prepare_aishell.py",
            ("aishell_transcript_v0.8.txt", "BAC009S0002W0000 has no text"),
        ),
        (
            lambda c: cut_transcript(c, "BAC009S0004W0000", "一 龘 二"),
            "token_list.py",
            ("dump/raw/test/text", "BAC009S0004W0000", "'龘'", "--allow_unk true"),
        ),
    ],
)
def test_corpus(
    fresh: Recipe, spoil: Callable[[Path], object], program: str, said: tuple[str, ...]
) -> None:
    # Without speed perturbation, which would only take time here.
    options = ("--stop_stage", "5", "--speed_perturb_factors", "", "--allow_unk", "false")
    done = fresh.run(*options)
    assert done.returncode == 0, done.stderr
    tokens = fresh.directory / "data/zh_token_list/char/tokens.txt"
    before, token_text = listing(fresh.directory), tokens.read_text("utf-8")
    spoil(fresh.corpus)
    done = fresh.run(*options)
    assert_one_line_error(done, program, *said)
    assert tokens.read_text("utf-8") == token_text
    after = listing(fresh.directory)
    assert after.keys() == before.keys()
    if program == "prepare_aishell.py":
        assert after == before


@pytest.mark.parametrize(
    ("options", "program", "said"),
    [
        (("--expdir", "file/exp"), "asr.sh", "file/exp: cannot be written to"),
        (("--dumpdir", "file"), "asr.sh", "file: cannot be written to"),
        (("--asr_confg", "x"), "asr.sh", "unknown option --asr_confg"),
        (("--nbpe", "many"), "asr.sh", "--nbpe many: a number is needed"),
        (("--aishell", "nowhere"), "prepare_aishell.py", "nowhere"),
        (("--teacher_exp", "nowhere"), "teacher_student.sh", "nowhere has no config.yaml"),
        (
            ("--teacher_exp", "half"),
            "teacher_student.sh",
            "--teacher_exp half has no valid.acc.ave.pth",
        ),
    ],
)
def test_options(fresh: Recipe, options: tuple[str, ...], program: str, said: str) -> None:
    (fresh.directory / "file").write_text("not a directory\n")
    (fresh.directory / "half").mkdir()
    (fresh.directory / "half/config.yaml").write_text("")
    done = fresh.run(*options)
    assert_one_line_error(done, program, said)
    assert (fresh.directory / "file").read_text() == "not a directory\n"
    assert not [p for n in ("data", "dump", "exp") for p in (fresh.directory / n).rglob("*")]


def test_sclite_is_looked_for_before_anything_runs(fresh: Recipe) -> None:
    local = fresh.directory.parents[2] / "local"
    local.unlink()
    shutil.copytree(ROOT / "local", local, ignore=shutil.ignore_patterns("__pycache__"))
    script = local / "sclite.sh"
    script.write_text(script.read_text().replace("/usr/lib/sctk/bin", "/nowhere/sctk"))
    # The environment's own folder, where sclite may be, too, is represented by its interpreter.
    programs = fresh.corpus.parent / "programs"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    path = [str(programs), *fresh.environment["PATH"].split(":")]
    without = ":".join(p for p in path if not (Path(p) / "sclite").exists())
    done = fresh.call("env", f"PATH={without}", *fresh.command())
    assert_one_line_error(done, "teacher_student.sh", "sclite", "apt-get install sctk")
    assert not (fresh.directory / "data").exists()
    # Not needed where nothing is scored.
    done = fresh.call("env", f"PATH={without}", *fresh.command("--stop_stage", "1"))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Recipe:
    """A recipe with data, statistics and the two trained models, some of them spoilt."""
    root = tmp_path_factory.mktemp("spoiled") / "recipe"
    recipe = trained.recipe.clone(root, "data", "dump", STATS, TEACHER, STUDENT)
    exp = recipe.directory / "exp"

    settings = CONFIGURATIONS["student"]
    rules = [{"modules": ["self_atn"], "groups": 1}]
    wrong = {**settings, "encoder_conf": {**settings["encoder_conf"], "sharing": rules}}
    (recipe.directory / "tiny/wrong.yaml").write_text(yaml.safe_dump(wrong))

    for name, source in (("other_tokens", TEACHER), ("other_groups", STUDENT)):
        (exp / name).mkdir()
        model = recipe.directory / source / "valid.acc.ave.pth"
        shutil.copy(model, exp / name / "valid.acc.ave.pth")
        config = yaml.safe_load((recipe.directory / source / "config.yaml").read_text("utf-8"))
        if source == TEACHER:
            config["token_list"][3] = "九"
        else:
            config["encoder_conf"]["sharing"][0]["groups"] = 2
        text = yaml.safe_dump(config, allow_unicode=True)
        (exp / name / "config.yaml").write_text(text, "utf-8")
    return recipe


ALONE = ("--teacher_config", "none", "--asr_tag", "alone", "--stage", "11", "--stop_stage", "11")


@pytest.fixture(scope="module")
def refused(spoiled: Recipe) -> dict[str, subprocess.CompletedProcess[str]]:
    """What ESPnet's programs find out only after they have been loaded, which takes a while."""
    training = ("--stage", "11", "--stop_stage", "11")
    sets = ("--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--lang", "zh")
    commands = {
        "rule": spoiled.command(
            *("--teacher_exp", TEACHER, "--asr_config", "tiny/wrong.yaml", *training)
        ),
        "tokens": spoiled.command(
            *("--teacher_exp", "exp/other_tokens", "--asr_tag", "fooled", *training)
        ),
        "groups": [
            *("local/asr.sh", *sets, "--asr_exp", "exp/other_groups", "--inference_nj", "1"),
            *("--inference_config", "tiny/decode.yaml", "--stage", "12", "--stop_stage", "12"),
        ],
        # No room for the checkpoint, which takes 400 KB; logs and settings take 60 KB.
        "disk": ["bash", "-c", 'ulimit -f 250; exec "$@"', "-", *spoiled.command(*ALONE)],
    }
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda command: spoiled.call(*command), commands.values())
        return dict(zip(commands, ended))


@pytest.mark.slow
def test_unknown_rule_path(
    spoiled: Recipe, refused: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    said = ("sharing[0]: 'self_atn' in 'modules' matches no parameter", "self_attn", "train.log")
    assert_one_line_error(refused["rule"], "train.py", *said)
    experiment = spoiled.directory / "exp/asr_wrong_raw_zh_char_sp"
    assert not list(experiment.glob("*.pth"))


@pytest.mark.slow
def test_teacher_with_other_tokens(refused: dict[str, subprocess.CompletedProcess[str]]) -> None:
    said = ("exp/other_tokens/config.yaml has another token list", "'九'")
    assert_one_line_error(refused["tokens"], "train.py", *said)


@pytest.mark.slow
def test_checkpoint_of_another_grouping(
    spoiled: Recipe, refused: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    said = ("does not fit the configuration", "encoders.0-1.", "encoders.0-3.")
    assert_one_line_error(refused["groups"], "decode.py", *said)
    assert not (spoiled.directory / "exp/other_groups" / DECODED / "text").exists()


@pytest.mark.slow
def test_full_disk_then_the_same_command(
    spoiled: Recipe, refused: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    """A checkpoint that did not fit is not gone on from; without teacher there is none to need."""
    said = ("exp/asr_alone/checkpoint.pth is written in part only: is the disk full", "train.log")
    assert_one_line_error(refused["disk"], "train.py", *said)
    experiment = spoiled.directory / "exp/asr_alone"
    assert not (experiment / "valid.acc.ave.pth").exists()
    done = spoiled.run(*ALONE)
    assert done.returncode == 0, done.stderr
    assert "with distill_weight=0" in done.stdout
    states = torch.load(experiment / "checkpoint.pth", weights_only=True)
    assert [*states["reporter"]["stats"]] == [1, 2]
    assert "loss_distill" not in states["reporter"]["stats"][2]["train"]


@pytest.mark.slow
def test_another_training_in_the_same_place(trained: Trained) -> None:
    """Changed settings would else be mixed with the checkpoint that is there."""
    recipe = trained.recipe
    config = recipe.directory / "tiny/student.yaml"
    text = config.read_text()
    before = listing(recipe.directory / STUDENT)
    try:
        config.write_text(text.replace("linear_units: 32", "linear_units: 48"))
        done = recipe.run("--stage", "11", "--stop_stage", "11")
    finally:
        config.write_text(text)
    assert_one_line_error(done, "train.py", STUDENT, "encoder_conf", "--asr_tag")
    after = listing(recipe.directory / STUDENT)
    assert {n for n in after if after[n] != before.get(n)} <= {".lock"}
