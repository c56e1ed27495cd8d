"""espnet_moe_share.bin.expert_usage on a tiny model's files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_models

from espnet_moe_share.bin.expert_usage import main


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Three recordings of two speakers, with texts."""
    directory = tmp_path / "data"
    directory.mkdir()
    rng = np.random.default_rng(0)
    columns: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "utt2dur": []}
    for name, samples, speaker in (("a", 16000, "s1"), ("b", 9000, "s2"), ("c", 12000, "s1")):
        file = directory / f"{name}.wav"
        soundfile.write(file, rng.uniform(-0.5, 0.5, samples), 16000)
        for column, value in (
            *(("wav.scp", file), ("text", "abcd")),
            *(("utt2spk", speaker), ("utt2dur", samples / 16000)),
        ):
            columns[column].append(f"{name} {value}\n")
    for column, lines in columns.items():
        (directory / column).write_text("".join(lines))
    return directory


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    settings = tiny_models.config()
    model = tiny_models.randomize(tiny_models.build(settings))
    return tiny_models.save(tmp_path_factory.mktemp("student"), settings, model)


def options(files: dict[str, str], data_dir: Path, *more: str) -> list[str]:
    config, model = files["teacher_config"], files["teacher_model_file"]
    return [
        *("--asr_train_config", config, "--asr_model_file", model),
        *("--data_dir", str(data_dir), "--output_dir", str(data_dir.parent / "usage"), *more),
    ]


def test_numbers_and_figures(
    student: dict[str, str], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(options(student, data_dir, "--utt_id", "b", "--shuffle_utts", "2"))
    folder = data_dir.parent / "usage"
    figures = ("load", "routing", "utterance", "by_utt2spk", "by_token", "shuffle")
    assert {file.name for file in folder.iterdir()} == {
        "expert_usage.json",
        *(f"{name}.{kind}" for name in figures for kind in ("png", "pdf")),
    }
    for name in figures:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    usage: dict[str, Any] = json.loads((folder / "expert_usage.json").read_text())
    names = [f"encoders.{n}.feed_forward" for n in range(4)]
    assert [layer["name"] for layer in usage["layers"]] == names
    (frames,) = {layer["frames"] for layer in usage["layers"]}
    assert all(sum(layer["load"]) == pytest.approx(1) for layer in usage["layers"])
    assert len(usage["neighbours"]) == 3 and len(usage["pairs"]) == 6
    # Labels divide the same frames, and their loads add up to the layers'.
    assert usage["by_label"].keys() == {"utt2spk", "token"}
    assert {label["label"] for label in usage["by_label"]["utt2spk"]["labels"]} == {"s1", "s2"}
    for kind in usage["by_label"].values():
        assert sum(label["frames"] for label in kind["labels"]) == frames
        for layer in usage["layers"]:
            parts = [np.array(x["load"][layer["name"]]) * x["frames"] for x in kind["labels"]]
            assert sum(parts) / frames == pytest.approx(np.array(layer["load"]))
    utterance = usage["utterance"]
    assert utterance["id"] == "b" and utterance["seconds"] == 9000 / 16000
    assert all(len(ids) == utterance["frames"] for ids in utterance["experts"].values())
    assert utterance["text"] == "".join(token["token"] for token in utterance["tokens"])
    shuffle = usage["shuffle"]
    assert shuffle["characters"] == 8
    assert shuffle["shuffled_cer"].keys() == {"all", *names}
    assert "3 utterances, 4 expert layers" in capsys.readouterr().out


def test_without_texts_and_without_ctc(student: dict[str, str], data_dir: Path) -> None:
    (data_dir / "text").unlink()
    main(options(student, data_dir))
    folder = data_dir.parent / "usage"
    assert "shuffle" not in json.loads((folder / "expert_usage.json").read_text())
    settings = tiny_models.config(model_conf={"ctc_weight": 0.0})
    files = tiny_models.save(data_dir.parent / "m", settings, tiny_models.build(settings))
    (data_dir / "text").write_text("a a\nb b\nc c\n")
    main(options(files, data_dir, "--output_dir", str(data_dir.parent / "no_ctc")))
    usage = json.loads((data_dir.parent / "no_ctc/expert_usage.json").read_text())
    assert usage["by_label"].keys() == {"utt2spk"} and "shuffle" not in usage


def test_refusals(teacher: dict[str, str], student: dict[str, str], data_dir: Path) -> None:
    def refuse(files: dict[str, str], said: str, *more: str) -> None:
        with pytest.raises(SystemExit, match=said) as error:
            main(options(files, data_dir, *more))
        assert "\n" not in str(error.value)

    refuse(teacher, "no expert layers")
    refuse(student, "--utt_id x: not in", "--utt_id", "x")
    refuse(student, "--font none.ttf: no such file", "--font", "none.ttf")
    refuse(student, "nowhere: no such data directory", "--data_dir", "nowhere")
    (data_dir / "utt2lang").write_text("a zh\nb zh\n")
    refuse(student, "utt2lang: nothing of c, which is in wav")
    (data_dir / "utt2lang").unlink()
    soundfile.write(data_dir / "c.wav", np.zeros(300), 16000)
    refuse(student, "of c: 300 samples are too short for the encoder")
    soundfile.write(data_dir / "c.wav", np.zeros(9000), 8000)
    refuse(student, "of c: 8000 Hz, but the model was trained on 16000 Hz")
    (data_dir / "wav.scp").write_text("a cat x.wav |\n")
    refuse(student, r"wav\.scp:1: '<utterance id> <audio file>' is needed")
