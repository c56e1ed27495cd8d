"""espnet_moe_share.bin.expert_usage on a tiny model's files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models

from espnet_moe_share.bin.expert_usage import main


@pytest.fixture
def wav_scp(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for name, samples in (("a", 16000), ("b", 9000)):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, samples), 16000)
        lines.append(f"{name} {tmp_path / name}.wav\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    return tmp_path / "wav.scp"


def options(files: dict[str, str], wav_scp: Path) -> list[str]:
    config, model = files["teacher_config"], files["teacher_model_file"]
    output = str(wav_scp.parent / "usage.json")
    return ["--asr_train_config", config, "--asr_model_file", model] + [
        "--wav_scp", str(wav_scp), "--output", output
    ]  # fmt: skip


def test_usage_of_every_expert_layer(tmp_path: Path, wav_scp: Path) -> None:
    settings = tiny_models.config()
    files = tiny_models.save(tmp_path, settings, tiny_models.build(settings))
    main(options(files, wav_scp))
    usage = json.loads((tmp_path / "usage.json").read_text())
    assert [layer["name"] for layer in usage["layers"]] == [
        f"encoders.{n}.feed_forward" for n in range(4)
    ]
    assert len({layer["frames"] for layer in usage["layers"]}) == 1
    assert all(sum(layer["load"]) == pytest.approx(1) for layer in usage["layers"])
    assert len(usage["neighbours"]) == 3


def test_refusals(teacher: dict[str, str], wav_scp: Path) -> None:
    with pytest.raises(SystemExit, match="no expert layers"):
        main(options(teacher, wav_scp))
    wav_scp.write_text("a cat x.wav |\n")
    with pytest.raises(SystemExit, match=r"wav\.scp:1: '<utterance id> <audio file>' is needed"):
        main(options(teacher, wav_scp))
    with pytest.raises(SystemExit, match=r"none\.scp: no such file"):
        main(options(teacher, wav_scp.with_name("none.scp")))
