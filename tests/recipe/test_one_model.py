"""One configuration alone, without a teacher, on sentencepiece tokens."""

from pathlib import Path

import pytest
import yaml
from tiny_recipe import Recipe, columns

pytestmark = pytest.mark.slow


def test_dense_model_with_bpe(tmp_path: Path, corpus: Path) -> None:
    """How one swaps encoders: any YAML, the same stages; here ESPnet's own Conformer."""
    recipe = Recipe.make(tmp_path / "recipe", corpus)
    done = recipe.run(
        *("--teacher_config", "none", "--asr_config", "tiny/teacher.yaml"),
        *("--token_type", "bpe", "--bpemode", "bpe", "--nbpe", "14"),
        *("--speed_perturb_factors", "", "--nj", "1", "--inference_nj", "1"),
        *("--asr_args", "--max_epoch 1", "--skip_packing", "true", "--stop_stage", "13"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tokens = recipe.directory / "data/zh_token_list/bpe_bpe14"
    assert (tokens / "bpe.model").is_file()
    experiment = recipe.directory / "exp/asr_teacher_raw_zh_bpe14_max_epoch1"
    assert not (recipe.directory / "data/train_sp").exists()
    settings = yaml.safe_load((experiment / "config.yaml").read_text("utf-8"))
    assert settings["max_epoch"] == 1
    assert settings["token_list"] == (tokens / "tokens.txt").read_text("utf-8").split()
    decoded = experiment / "decode_asr_model_valid.acc.ave/test"
    assert columns(decoded / "text").keys() == columns(recipe.directory / "data/test/text").keys()
    results = (experiment / "RESULTS.md").read_text("utf-8")
    assert [f"### {score}" in results for score in ("WER", "CER", "TER")] == [True] * 3
    # A table of two needs two.
    assert not (recipe.directory / "exp/RESULTS.md").exists()
