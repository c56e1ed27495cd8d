"""The code of docs/inference.md, run from the page."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_models import build, config, randomize, save

from espnet_moe_share.task import ASRTask

PAGE = Path(__file__).resolve().parents[1] / "docs/inference.md"


def test_every_way_gives_the_same_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchanged_globals: None
) -> None:
    experiment = tmp_path / "exp/asr_student"
    monkeypatch.setattr(sys, "argv", ["asr_train"])  # which ESPnet parses for its defaults
    settings = {**ASRTask.get_default_config(), **config()}
    save(experiment, settings, randomize(build(settings, seed=2)))
    (experiment / "model.pth").rename(experiment / "valid.acc.ave.pth")
    rng = np.random.default_rng(0)
    for name, samples in (("first", 9000), ("second", 12000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.normal(size=samples), 16000)
    (tmp_path / "wav.scp").write_text("first first.wav\nsecond second.wav\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where models are unpacked

    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 7
    recognisers = []
    names: dict[str, Any] = {}
    for language, code in blocks:
        if language == "python":
            names = {**names, "speech2text": None}
            exec(code, names)
            recognisers.append(names["speech2text"])
        else:
            command = shlex.split(code.replace("\\\n", " "))
            assert command[:2] == ["python3", "-m"]
            monkeypatch.setattr(sys, "argv", command[2:])
            import_module(command[2]).main()

    texts = names["texts"]
    assert texts[0] == names["text"] != ""
    decoded = (tmp_path / "decoded/1best_recog/text").read_text().splitlines()
    assert decoded == [f"first {texts[0]}", f"second {texts[1]}"]
    assert len(recognisers) == 4
    for recogniser in recognisers:
        assert recogniser(names["first"])[0][0] == texts[0]
