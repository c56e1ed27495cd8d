"""Commands worked for minutes and ended in a traceback, as they could not write their output."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from espnet_moe_share.bin import (
    compare,
    draw_sharing,
    expert_usage,
    export,
    recognize_onnx,
    svd_init,
    upcycle,
)
from espnet_moe_share.files import whole_file

MODEL = ["--asr_train_config", "config.yaml", "--asr_model_file", "model.pth"]
DENSE = [*MODEL, "--config", "config.yaml", "--output"]
DATA = ["--wav_scp", "wav.scp"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (compare.main, ["exp", "--output"]),
        (compare.main, ["exp", "--figure"]),
        (draw_sharing.main, ["config.yaml", "--output"]),
        (expert_usage.main, [*MODEL, "--data_dir", ".", "--output_dir"]),
        (export.main, [*MODEL, *DATA, "--output_dir"]),
        (recognize_onnx.main, ["--model_file", "model.pth", *DATA, "--output"]),
        (svd_init.main, DENSE),
        (upcycle.main, DENSE),
    ],
)
def test_one_line_before_the_work(
    main: Callable[[list[str]], None],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else of what the commands need is there to be read."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "model.pth", "file"):
        Path(name).touch()
    Path("wav.scp").write_text("u u.wav\n")
    with pytest.raises(SystemExit, match=r"^\w[\w.]*: error: .*\bfile\b[^\n]*$"):
        main([*arguments, "file/out"])
    assert len(list(tmp_path.iterdir())) == 4


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"out\.json") as error, whole_file(tmp_path / "out.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "out.json")
    assert not list(tmp_path.iterdir())
