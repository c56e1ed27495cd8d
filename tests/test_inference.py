"""Beam search with our Speech2Text: strict, and independent of the teacher."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from espnet2.bin.asr_inference import Speech2Text as ESPnetSpeech2Text
from tiny_models import SHARING, build, config, merge, randomize, save, speechmoe_config

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.inference import Speech2Text

GONE = {"distill_weight": 0.1, "teacher_config": "gone.yaml", "teacher_model_file": "gone.pth"}
SEARCH = {"beam_size": 3, "maxlenratio": 0.2}


@pytest.fixture(scope="module", params=[config, speechmoe_config])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    settings = request.param(model_conf=GONE)
    model = randomize(build(settings, seed=2))
    paths = save(tmp_path_factory.mktemp("student"), settings, model)
    return paths["teacher_config"], paths["teacher_model_file"]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return np.random.default_rng(0).normal(size=9000).astype(np.float32)


def test_decodes_without_the_teacher_as_espnet_does(
    files: tuple[str, str], speech: np.ndarray
) -> None:
    results = [cls(*files, **SEARCH)(speech)[0] for cls in (Speech2Text, ESPnetSpeech2Text)]
    assert results[0][:3] == results[1][:3]
    assert results[0][3].score == results[1][3].score
    assert results[0][2] != []


def test_other_grouping_is_refused(tmp_path: Path, files: tuple[str, str]) -> None:
    settings = yaml.safe_load(Path(files[0]).read_text())
    settings["encoder_conf"]["sharing"] = [{**SHARING[0], "groups": 1}]
    other = tmp_path / "config.yaml"
    other.write_text(yaml.safe_dump(settings))
    for cls in (Speech2Text, ESPnetSpeech2Text):
        with pytest.raises(CheckpointMismatchError, match=r"encoders\.0-3\..*encoders\.0(-1)?\."):
            cls(other, files[1])


@pytest.mark.parametrize("quantize", [False, True])
def test_espnets_models_are_checked_too(
    tmp_path: Path, teacher: dict[str, str], speech: np.ndarray, quantize: bool
) -> None:
    paths = teacher["teacher_config"], teacher["teacher_model_file"]
    Speech2Text(*paths, quantize_asr_model=quantize, **SEARCH)(speech)
    settings = yaml.safe_load(Path(paths[0]).read_text())
    other = tmp_path / "config.yaml"
    other.write_text(yaml.safe_dump(merge(settings, {"encoder_conf": {"num_blocks": 5}})))
    with pytest.raises(CheckpointMismatchError, match=r"needs encoder\.encoders\.4\."):
        Speech2Text(other, paths[1], quantize_asr_model=quantize)


def test_quantised_student_decodes(files: tuple[str, str], speech: np.ndarray) -> None:
    assert Speech2Text(*files, quantize_asr_model=True, **SEARCH)(speech)


def test_missing_files(files: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.pth: no such file"):
        Speech2Text(files[0], "nowhere.pth")
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: no such file"):
        Speech2Text("nowhere.yaml", files[1])


def test_packed_model_elsewhere(
    tmp_path: Path, files: tuple[str, str], speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet2.main_funcs.pack_funcs import pack

    archive = tmp_path / "packed.zip"
    pack(
        files={"asr_model_file": files[1]},
        yaml_files={"asr_train_config": files[0]},
        outpath=archive,
        option=[],
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    unpacked = Speech2Text.from_pretrained(str(archive), **SEARCH)
    assert type(unpacked) is Speech2Text
    expected = Speech2Text(*files, **SEARCH)(speech)[0]
    assert unpacked(speech)[0][:3] == expected[:3]
