"""Stages 6, 7 and 8, and decoding with the language model that they make."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_recipe import (
    CONFIGURATIONS,
    DECODED,
    TEACHER,
    Trained,
    assert_one_line_error,
    columns,
    listing,
)

pytestmark = pytest.mark.slow

LM = "exp/lm_lm_zh_char"
DECODED_WITH_LM = "decode_lm_lm_lm_zh_char_valid.loss.ave_asr_model_valid.acc.ave/test"
# One model is enough here: teacher and student get the same options.
COMMAND = (
    *("local/asr.sh", "--train_set", "train", "--valid_set", "dev", "--test_sets", "test"),
    *("--lang", "zh", "--speed_perturb_factors", "0.9 1.0 1.1", "--nj", "1", "--inference_nj", "1"),
    *("--asr_exp", TEACHER, "--inference_config", "tiny/decode.yaml", "--skip_packing", "false"),
    *("--use_lm", "true", "--lm_config", "tiny/lm.yaml", "--stage", "6", "--skip_stages", "10 11"),
)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Trained:
    """The trained recipe's teacher decoded with a language model."""
    copied = ("data", "dump", TEACHER, "exp/asr_stats_raw_zh_char_sp")
    recipe = trained.recipe.clone(tmp_path_factory.mktemp("language_model") / "recipe", *copied)
    done = recipe.call(*COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    return Trained(recipe, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def language_model(fused: Trained) -> Any:
    from espnet2.tasks.lm import LMTask

    experiment = fused.recipe.directory / LM
    model, _ = LMTask.build_model_from_file(
        experiment / "config.yaml", experiment / "valid.loss.ave.pth", "cpu"
    )
    return model.eval()


def log_probability(model: Any, config: Path, text: str) -> tuple[float, int]:
    """Of a text with its end, and the number of its tokens."""
    tokens = yaml.safe_load(config.read_text("utf-8"))["token_list"]
    ids = torch.tensor([[tokens.index(character) for character in text]])
    with torch.no_grad():
        nll, length = model.nll(ids, torch.tensor([len(text)]))
    return -float(nll.sum()), int(length.sum())


def test_layout_and_progress(fused: Trained) -> None:
    directory = fused.recipe.directory
    for name in ("train/text_shape.char", "valid/text_shape.char", "logdir/stats.1.log"):
        assert (directory / "exp/lm_stats_zh_char" / name).is_file()
    for name in ("config.yaml", "train.log", "valid.loss.ave.pth", "perplexity_test/ppl"):
        assert (directory / LM / name).is_file()
    # One copy of each sentence, not one for each speed.
    assert columns(directory / "dump/raw/lm_train.txt") == columns(directory / "data/train/text")
    begun = re.findall(r"Stage (\d+): ", fused.stdout)
    assert begun == ["6", "7", "8", "12", "13", "14"]
    assert re.search(r"^epoch 2/2: train loss \S+, valid loss \S+, \d+ s$", fused.stdout, re.M)


def test_perplexity(fused: Trained, language_model: Any) -> None:
    directory = fused.recipe.directory
    texts = columns(directory / "data/test/text").values()
    config = directory / LM / "config.yaml"
    counted = [log_probability(language_model, config, text) for text in texts]
    total, tokens = (sum(column) for column in zip(*counted))
    expected = torch.tensor(-total / tokens).exp().item()
    assert tokens == sum(map(len, texts)) + len(texts)
    ppl = float((directory / LM / "perplexity_test/ppl").read_text())
    assert ppl == pytest.approx(expected, rel=1e-5)
    assert f"dump/raw/test/text: perplexity {ppl:.2f}" in fused.stdout


def test_shallow_fusion(fused: Trained, language_model: Any) -> None:
    """Where the same words win, their score grows by weight times log probability."""
    weight = CONFIGURATIONS["decode"]["lm_weight"]
    directory = fused.recipe.directory
    found, before = (
        {name: columns(directory / TEACHER / decoded / name) for name in ("text", "score")}
        for decoded in (DECODED_WITH_LM, DECODED)
    )
    assert found["text"].keys() == before["text"].keys() and len(found["text"]) == 4
    same = 0
    for utterance, text in found["text"].items():
        scores = [float(re.findall(r"-?[\d.]+", f["score"][utterance])[0]) for f in (found, before)]
        assert scores[0] != scores[1]
        if text == before["text"][utterance]:
            same += 1
            config = directory / LM / "config.yaml"
            logp, _ = log_probability(language_model, config, text)
            assert scores[0] - scores[1] == pytest.approx(weight * logp, abs=1e-3)
    assert same > 0
    table = (directory / TEACHER / "RESULTS.md").read_text("utf-8")
    for decoded in (DECODED, DECODED_WITH_LM):
        assert f"|{decoded}|4|" in table


def test_pack_holds_the_language_model(fused: Trained) -> None:
    (packed,) = (fused.recipe.directory / TEACHER).glob("*.zip")
    with zipfile.ZipFile(packed) as archive:
        meta = yaml.safe_load(archive.read("meta.yaml"))
        names = archive.namelist()
    assert meta["yaml_files"]["lm_train_config"] == f"{LM}/config.yaml"
    assert meta["files"]["lm_file"].startswith(LM) and meta["files"]["lm_file"] in names
    assert f"{LM}/perplexity_test/ppl" in names


def test_second_call_and_changed_configuration(fused: Trained) -> None:
    recipe = fused.recipe
    before = listing(recipe.directory / "exp")
    done = recipe.call(*COMMAND, "--stop_stage", "8")
    assert done.returncode == 0, done.stderr
    assert "lm_stats_zh_char: up to date" in done.stdout
    assert "lm_lm_zh_char: already trained" in done.stdout
    assert "perplexity" in done.stdout
    after = listing(recipe.directory / "exp")
    assert {n for n in after if after[n] != before.get(n)} <= {"lm_lm_zh_char/.lock"}
    other = ("--lm_args", "--seed 1", "--lm_exp", LM)
    done = recipe.call(*COMMAND, *other, "--stop_stage", "8")
    assert_one_line_error(done, "train.py", LM, "the arguments changed", "--lm_tag")
