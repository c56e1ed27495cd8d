"""Two runs in one recipe's directory removed each other's half-made data."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

LOCAL = Path(__file__).parents[2] / "local"


def test_second_waits_and_says_so(tmp_path: Path) -> None:
    shutil.copytree(LOCAL, tmp_path / "local", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "local/data.sh").write_text("#!/bin/sh\ntouch data/prepared\n")
    (tmp_path / "data").mkdir()
    command = ["bash", "local/asr.sh", "--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    command += ["--lang", "x", "--stop_stage"]
    held = os.open(tmp_path / "data", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen([*command, "1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        said = second.stdout.readline()
        assert said == f"waiting for another run in {tmp_path}, which prepares the data\n"
        assert not (tmp_path / "data/prepared").exists()
    finally:
        os.close(held)
    assert second.wait(60) == 0 and (tmp_path / "data/prepared").exists()
    second.stdout.close()
