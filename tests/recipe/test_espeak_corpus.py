"""AISHELL-1's recipe on a corpus of AISHELL-1's shape, from the download to sclite's table."""

import shutil
from pathlib import Path

import pytest
from archive_server import serve
from tiny_recipe import Recipe, columns

pytestmark = pytest.mark.slow


def test_download_train_decode_score(tmp_path: Path) -> None:
    recipe = Recipe.make(tmp_path / "recipe", tmp_path / "none")
    sizes = ("--train_sentences", "30", "--dev_sentences", "3", "--test_sentences", "4")
    speakers = ("--train_speakers", "24", "--dev_speakers", "3", "--test_speakers", "3")
    built = recipe.call(
        *("bash", "local/data.sh", "--corpus", "espeak", *sizes, *speakers),
        *("--downloads", "built", "--data_dir", "built"),
    )
    assert built.returncode == 0, built.stderr
    corpus = recipe.directory / "built/espeak/data_aishell"
    packed = tmp_path / "packed"
    done = recipe.call(
        "python3", "local/pack_aishell.py", "--corpus", str(corpus), "--out", str(packed)
    )
    assert done.returncode == 0, done.stderr
    expected = shutil.copy(corpus / "counts.txt", tmp_path)
    shutil.rmtree(recipe.directory / "built")

    with serve(packed) as server:
        done = recipe.call(
            *("./run.sh", "--corpus", "aishell", "--data_url", server.url, "--expect", expected),
            *("--checksums", str(packed / "checksums.txt"), "--remove_archive", "true"),
            *("--teacher_config", "none", "--asr_config", "tiny/student.yaml"),
            *("--inference_config", "tiny/decode.yaml", "--test_sets", "test"),
            *("--speed_perturb_factors", "", "--asr_args", "--max_epoch 1"),
            *("--ngpu", "0", "--nj", "2", "--inference_nj", "1"),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.asked) == 2
    assert "wavs 40 (as expected), train_utterances 30 (as expected)," in done.stdout
    assert "3 recordings without transcript left out" in done.stdout
    assert len(set(columns(recipe.directory / "data/train/utt2spk").values())) == 24
    # What stage 1 counts is what stage 5 lists.
    counts = dict(line.split("=") for line in Path(expected).read_text().split())
    tokens = (recipe.directory / "data/zh_token_list/char/tokens.txt").read_text("utf-8").split()
    assert len(tokens) == int(counts["tokens"])
    (result,) = recipe.directory.glob("exp/asr_*/*/test/score_cer/result.txt")
    line = next(line for line in result.read_text().splitlines() if "Sum/Avg" in line)
    assert line.replace("|", " ").split()[1:3] == ["4", counts["test_characters"]]
    left = {path.name for path in (recipe.directory / "downloads").iterdir()}
    assert left == {"data_aishell", "resource_aishell", ".lock"}
