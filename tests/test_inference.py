"""Beam search with our Speech2Text: strict, and independent of the teacher."""

import zipfile
from pathlib import Path
from typing import Any

import espnet
import numpy as np
import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text as ESPnetSpeech2Text
from tiny_models import SHARING, build, config, merge, randomize, save, speechmoe_config

import espnet_moe_share
from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.inference import Speech2Text
from espnet_moe_share.task import ASRTask

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


def test_batch_gives_what_single_waveforms_give(files: tuple[str, str], speech: np.ndarray) -> None:
    speech2text = Speech2Text(*files, **SEARCH)
    waveforms = [speech[:6000], speech, speech[2000:]]
    together = speech2text(waveforms)
    for found, waveform in zip(together, waveforms):
        alone = speech2text(waveform)
        assert [hypothesis[:3] for hypothesis in found] == [one[:3] for one in alone]
        # not equal: ESPnet's convolutions see what a shorter waveform is padded with
        assert float(found[0][3].score) == pytest.approx(float(alone[0][3].score), abs=0.02)


class _Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("espnets_switch", ["0", "1"])
def test_nothing_but_weights_is_unpickled(
    tmp_path: Path, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, espnets_switch: str
) -> None:
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", espnets_switch)
    made, bad = tmp_path / "made", tmp_path / "bad.pth"
    torch.save({**torch.load(files[1]), "more": _Touch(made)}, bad)
    for load in (
        lambda: Speech2Text(files[0], bad),
        lambda: Speech2Text(*files, lm_train_config="lm.yaml", lm_file=bad),
        lambda: ASRTask.build_model_from_file(files[0], bad),
    ):
        with pytest.raises(ConfigurationError, match=r"bad\.pth: it holds a .*open; only weights"):
            load()
    assert not made.exists()
    torch.load(bad, weights_only=False)
    assert made.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no zip", "no checkpoint"), (b"", "no checkpoint"), ([1.0], "a list is no state dict")],
)
def test_other_files_are_no_checkpoints(
    tmp_path: Path, files: tuple[str, str], content: Any, said: str
) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(content) if isinstance(content, bytes) else torch.save(content, bad)
    with pytest.raises(ConfigurationError, match=said) as refused:
        Speech2Text(files[0], bad)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": "moe_share_later"}, "have no encoder 'moe_share_later'; mend the name, or in"),
        ({"model": "others"}, "have no model 'others'"),
        ({"encoder_conf": {"gate": 1}}, r"Encoder has no setting 'gate' in ESPnet .* install"),
        ({"model_conf": {"late_weight": 1.0}}, r"Model has no setting 'late_weight' in ESPnet"),
    ],
)
def test_what_a_model_of_another_plug_in_needs(
    tmp_path: Path, files: tuple[str, str], change: dict[str, Any], said: str
) -> None:
    other = tmp_path / "config.yaml"
    other.write_text(yaml.safe_dump(merge(yaml.safe_load(Path(files[0]).read_text()), change)))
    for load in (Speech2Text, ASRTask.build_model_from_file):
        with pytest.raises(ConfigurationError, match=said) as refused:
            load(other, files[1])
        assert f"espnet_moe_share {espnet_moe_share.__version__}" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_other_type_errors_are_not_explained_away(files: tuple[str, str]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'beam'"):
        Speech2Text(*files, beam=3)


def test_folder_of_no_packed_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no meta\.yaml"):
        Speech2Text.from_pretrained(str(tmp_path))


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

    # As a repository of Hugging Face's hub lies in its cache, and as a folder.
    from huggingface_hub import constants

    snapshot = tmp_path / "hub/models--me--student/snapshots" / ("0" * 40)
    with zipfile.ZipFile(archive) as contents:
        contents.extractall(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for load in (
        lambda: Speech2Text.from_pretrained("me/student", **SEARCH),
        lambda: Speech2Text.from_pretrained(str(snapshot), **SEARCH),
        lambda: espnet.load("me/student", task="asr", device="cpu", **SEARCH),
        lambda: espnet.load(str(archive), task="asr", device="cpu", **SEARCH),
    ):
        assert load()(speech)[0][:3] == expected[:3]
