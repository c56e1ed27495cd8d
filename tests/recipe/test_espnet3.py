"""egs3/aishell/esp2_asr, by ESPnet3's own stages."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import merge
from tiny_recipe import ROOT, columns

OWN = ROOT / "egs3/aishell/esp2_asr"
TEACHER, STUDENT = "training_teacher_mini", "training_moe_share_mini"
# One batch is an epoch, and two are a training.
TINY: dict[str, Any] = {
    "model": {
        "encoder_conf": {
            "output_size": 16,
            "attention_heads": 2,
            "linear_units": 32,
            "num_blocks": 2,
            "interctc_layer_idx": [1],
        },
        "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    },
    "best_model_criterion": [["valid/acc", 1, "max"]],
    "dataloader": {"train": {"iter_factory": {"num_workers": 0}}},
    "scheduler": {"warmup_steps": 1},
    "trainer": {"max_steps": 2, "accelerator": "cpu", "log_every_n_steps": 1},
}


@pytest.fixture
def run(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, unchanged_globals: None
) -> Iterator[Callable[..., None]]:
    """Call ``run.py`` of a copy of the recipe with a tiny corpus and tiny models."""
    import torch

    precision = torch.get_float32_matmul_precision()  # which ESPnet3 lowers
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # which Lightning sets
    recipe = tmp_path / "egs3/aishell/esp2_asr"
    shutil.copytree(OWN, recipe, ignore=shutil.ignore_patterns("data", "exp", "downloads"))
    monkeypatch.chdir(recipe)
    monkeypatch.syspath_prepend(str(recipe))
    prepare = [sys.executable, str(ROOT / "local/prepare_aishell.py"), "--aishell", str(corpus)]
    sets = ["--set_names", "mini_train", "mini_dev", "mini_test"]
    subprocess.run([*prepare, "--data_dir", "data", *sets], check=True, capture_output=True)
    for name, change in (
        (TEACHER, TINY),
        (STUDENT, {"scheduler": TINY["scheduler"], "trainer": TINY["trainer"]}),
        ("inference", {"model": {"beam_size": 2, "maxlenratio": 0.2, "minlenratio": 0.2}}),
    ):
        path = Path(f"conf/{name}.yaml")
        text = path.read_text().replace("ave_3best", "ave_1best")
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(text), change)))

    def call(training: str, *stages: str) -> None:
        options = ["--training_config", f"conf/{training}.yaml"]
        options += ["--inference_config", "conf/inference.yaml"]
        options += ["--metrics_config", "conf/metrics.yaml", "--stages", *stages]
        monkeypatch.setattr(sys, "argv", ["run.py", *options])
        runpy.run_path("run.py", run_name="__main__")

    yield call
    torch.set_float32_matmul_precision(precision)


def test_teacher_and_student(run: Callable[..., None]) -> None:
    import torch

    run(TEACHER, "create_dataset", "train_tokenizer", "collect_stats", "train")
    run(STUDENT, "train", "infer")
    weights = torch.load(f"exp/{STUDENT}/valid.acc.ave_1best.pth", weights_only=True)
    assert "encoder.encoders.0-1.feed_forward.experts.w_1" in weights
    assert "encoder.encoders.1.feed_forward.router.weight" in weights
    assert not [key for key in weights if "teacher" in key]
    logged = [file.read_bytes() for file in Path(f"exp/{STUDENT}").rglob("events.*")]
    assert any(b"train/loss_distill_weighted" in events for events in logged)
    texts = columns(Path(f"exp/{STUDENT}/inference/mini_test/text.scp"))
    assert texts.keys() == columns(Path("data/mini_test/text")).keys()
    assert all(texts.values())
    if find_spec("jiwer"):  # of setup.py's extras espnet3 and test
        run(STUDENT, "measure")
        scores = json.loads(Path(f"exp/{STUDENT}/inference/metrics.json").read_text())
        assert '"CER"' in json.dumps(scores)


def test_corpus_is_made_by_the_script_of_egs2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    egs2 = tmp_path / "egs2"
    (egs2 / "local").mkdir(parents=True)
    (egs2 / "path.sh").write_text("export FROM_PATH=yes\n")
    script = egs2 / "local/data_mini.sh"
    script.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "${FROM_PATH}" "$@" >said\nexit "${FAIL:-0}"\n'
    )
    script.chmod(0o755)
    monkeypatch.syspath_prepend(str(OWN))
    from dataset import DatasetBuilder
    from dataset import builder as module

    monkeypatch.setattr(module, "EGS2", egs2)
    recipe = tmp_path / "recipe"
    builder = DatasetBuilder()
    assert not builder.is_built(recipe_dir=str(recipe))
    builder.build(recipe_dir=str(recipe), options={"seed": 3}, func="of ESPnet's template")
    said = [
        "yes",
        "--downloads",
        f"{recipe}/downloads",
        "--data_dir",
        f"{recipe}/data",
        "--seed",
        "3",
    ]
    assert (egs2 / "said").read_text().splitlines() == said
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(subprocess.CalledProcessError):
        builder.build(recipe_dir=str(recipe))
    assert (OWN.parents[2] / "egs2/aishell/asr1/local/data_mini.sh").is_file()


def test_data_that_is_not_there_says_which_stage_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    from dataset import Dataset

    with pytest.raises(FileNotFoundError, match=r"mini_dev/text: .* run --stages create_dataset"):
        Dataset("mini_dev", str(tmp_path))
