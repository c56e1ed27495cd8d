"""Tiny data directories and calls of scripts, for the tests of the driver and its helpers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

LOCAL = Path(__file__).parents[2] / "local"
# Stands for local/asr.sh: notes how it was called, one argument per line.
RECORDER = '#!/bin/sh\n{ for a in "$@"; do echo "${a:-(empty)}"; done; echo; } >>calls\n'


def run(recipe: Path, script: str, *arguments: str, **environment: str):  # type: ignore[no-untyped-def]
    """Call a script of a recipe; without a checkout of ESPnet unless the environment names one."""
    command = ["bash", script, *arguments]
    # sclite may be in the tests' environment alone, which a copy of local/ does not find
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    env = {**os.environ, "ESPNET_ROOT": "", "PATH": path, **environment}
    return subprocess.run(command, cwd=recipe, env=env, capture_output=True, text=True)


def calls(recipe: Path) -> list[list[str]]:
    """The arguments of every call that RECORDER has noted."""
    return [call.splitlines() for call in (recipe / "calls").read_text().strip().split("\n\n")]


def option(call: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    positions = [index for index, argument in enumerate(call) if argument == name]
    return call[positions[-1] + 1]


def write_tone(path: Path, seconds: float, hertz: float = 440.0, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), rate, subtype="PCM_16")


def make_data_directory(
    path: Path, texts: dict[str, str], seconds: float | dict[str, float] = 0.5
) -> Path:
    """A data directory of tones; the speaker is the id's part before the first dash."""
    for utt in texts:
        length = seconds[utt] if isinstance(seconds, dict) else seconds
        write_tone(path / "wav" / f"{utt}.wav", length)
    write_lists(path, texts)
    return path


def write_lists(path: Path, texts: dict[str, str]) -> None:
    utts = sorted(texts)
    path.mkdir(parents=True, exist_ok=True)
    (path / "wav.scp").write_text("".join(f"{u} {path}/wav/{u}.wav\n" for u in utts))
    (path / "text").write_text("".join(f"{u} {texts[u]}\n" for u in utts))
    (path / "utt2spk").write_text("".join(f"{u} {u.split('-')[0]}\n" for u in utts))


def run_helper(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LOCAL / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def assert_one_line_error(done: subprocess.CompletedProcess[str], said: str) -> None:
    """The last line names the mistake; above it there may be a progress bar, no traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr.splitlines()[-1]
    assert said in done.stderr.splitlines()[-1]
