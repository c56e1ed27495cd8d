"""The packed student somewhere else: no teacher, no experiment directory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from tiny_recipe import DECODED, STUDENT, Trained, columns

pytestmark = pytest.mark.slow

SEARCH = {"beam_size": 4, "ctc_weight": 0.3, "ctc_window_margin": 0, "minlenratio": 0.3}


@pytest.fixture
def elsewhere(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, dict[str, str], Path]]:
    """The zip, the recorded hypotheses and the test set's wav.scp; the recipe itself is away."""
    directory = trained.recipe.directory
    (packed,) = (directory / STUDENT).glob("*.zip")
    archive = tmp_path / "student.zip"
    archive.write_bytes(packed.read_bytes())
    wav_scp = tmp_path / "wav.scp"
    wav_scp.write_bytes((directory / "dump/raw/test/wav.scp").read_bytes())
    expected = columns(directory / STUDENT / DECODED / "text")
    away = directory.with_name("away")
    directory.rename(away)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where models are unpacked
    try:
        yield archive, expected, wav_scp
    finally:
        away.rename(directory)


def test_decodes_as_in_the_experiment(
    tmp_path: Path, elsewhere: tuple[Path, dict[str, str], Path], environment: dict[str, str]
) -> None:
    from espnet_moe_share.inference import Speech2Text

    archive, expected, wav_scp = elsewhere
    speech2text = Speech2Text.from_pretrained(str(archive), **SEARCH)
    assert type(speech2text) is Speech2Text
    found = {}
    for utterance, wav in columns(wav_scp).items():
        samples, _ = soundfile.read(wav, dtype="float32")
        found[utterance] = speech2text(samples)[0][0]
    assert found == expected

    # The same by ESPnet's program, two utterances at a time.
    options = [f"--{name}={value}" for name, value in SEARCH.items()]
    command = ["-m", "espnet_moe_share.launch", "-m", "espnet2.bin.asr_inference", *options]
    command += ["--batch_size", "2", "--output_dir", str(tmp_path / "decoded")]
    command += ["--model_tag", str(archive)]
    command += ["--data_path_and_name_and_type", f"{wav_scp},speech,sound"]
    done = subprocess.run(
        [sys.executable, *command],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert columns(tmp_path / "decoded/1best_recog/text") == expected


def test_configuration_without_the_plugin(tmp_path: Path, trained: Trained) -> None:
    """ESPnet alone says which of its choices there are; it must not decode something else."""
    directory = trained.recipe.directory
    done = trained.recipe.call(
        *(sys.executable, "-m", "espnet2.bin.asr_inference"),
        *("--asr_train_config", str(directory / STUDENT / "config.yaml")),
        *("--asr_model_file", str(directory / STUDENT / "valid.acc.ave.pth")),
        *("--output_dir", str(tmp_path / "decoded")),
        *("--data_path_and_name_and_type", "dump/raw/test/wav.scp,speech,sound"),
    )
    assert done.returncode != 0
    assert "moe_share_conformer" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("text"))
