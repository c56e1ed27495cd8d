"""The grid's figures were of dump/ and valid.acc.ave.pth, whatever the grid's options named."""

import subprocess
from pathlib import Path

LOCAL = Path(__file__).parents[2] / "local"


def test_both_programs_get_the_same(tmp_path: Path) -> None:
    for name in ("local", "conf"):
        (tmp_path / name).symlink_to(LOCAL.parent / name)
    (tmp_path / "path.sh").write_text("export PATH=$PWD:$PATH\n")
    for name in ("run.sh", "python3"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$*" >>calls.{name}\nfalse\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run.sh").write_text('#!/bin/sh\necho "$*" >>calls.run.sh\n')
    options = ["--dumpdir", "d", "--inference_asr_model", "latest.pth"]
    command = ["bash", "local/grid.sh", "--systems", "dense", "--seeds", "1", *options]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    for call in (tmp_path / "calls.run.sh").read_text().splitlines():
        assert "--dumpdir d --inference_asr_model latest.pth" in call
    check, result = (tmp_path / "calls.python3").read_text().splitlines()
    assert "--dumpdir d --model latest.pth" in check and result in check
