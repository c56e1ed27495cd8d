"""local/train.py: what may be resumed, what is repaired, and the line for an epoch."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from driver_data import assert_one_line_error, run_helper
from train import RECORD, Checkpoints, differences, epoch_line

RESULTS = (
    "[train] iter_time=0.002, loss_ctc=91.1, acc=0.04, loss=81.500, clip=100.000, "
    "optim0_lr0=2.000e-05, time=1 minute and 2.5 seconds, total_count=5, "
    "[valid] loss_ctc=136.2, cer_ctc=0.866, acc=0.087, cer=1.119, wer=1.000, loss=135.800, "
    "time=1.75 seconds, total_count=1, [att_plot] time=30 seconds, total_count=0"
)


def test_epoch_line() -> None:
    assert epoch_line(3, "14", RESULTS) == (
        "epoch 3/14: train loss 81.5, valid loss 135.8, valid acc 0.087, valid cer_ctc 0.866, "
        "valid cer 1.119, 64 s"
    )


def description(**changes: object) -> dict[str, object]:
    return {
        "config": {"encoder": "conformer", "max_epoch": 3},
        "arguments": ["-m", "espnet2.bin.asr_train", "--max_epoch", "3", "--seed", "1"],
        "data": "d",
        "files": {},
    } | changes


def test_differences() -> None:
    longer = description(config={"encoder": "conformer", "max_epoch": 9})
    assert differences(description(), longer) == []
    other = description(config={"encoder": "transformer", "max_epoch": 3}, data="e")
    assert differences(description(), other) == ["encoder of the configuration", "the data"]
    arguments = ["-m", "espnet2.bin.asr_train", "--max_epoch", "9", "--seed", "2"]
    assert differences(description(), description(arguments=arguments)) == ["the arguments"]


def test_other_numbers_of_processes_go_on_with_the_same_training() -> None:
    arguments = description()["arguments"]
    assert isinstance(arguments, list)
    more = [*("--multiprocessing_distributed", "true", "--dist_launcher", "slurm"), "--ngpu", "4"]
    more += ["--dist_init_method", "file:///exp/.dist_init_a", "--dist_backend", "gloo"]
    assert differences(description(), description(arguments=arguments + more)) == []


def write_epochs(experiment: Path, last: int) -> None:
    """What ESPnet leaves after some epochs; the models differ by epoch."""
    for epoch in range(1, last + 1):
        torch.save({"w": torch.full((2,), float(epoch))}, experiment / f"{epoch}epoch.pth")
    model = {"w": torch.full((2,), float(last))}
    torch.save(
        {"model": model, "reporter": {"stats": {}, "epoch": last}}, experiment / "checkpoint.pth"
    )
    (experiment / "latest.pth").unlink(missing_ok=True)
    (experiment / "latest.pth").symlink_to(f"{last}epoch.pth")


def test_copy_survives_a_checkpoint_cut_off_in_writing(tmp_path: Path) -> None:
    write_epochs(tmp_path, 2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep_copy()
    whole = checkpoints.current.read_bytes()
    checkpoints.current.write_bytes(whole[: len(whole) // 2])
    checkpoints.keep_copy()
    checkpoints.repair()
    assert torch.load(checkpoints.current)["reporter"]["epoch"] == 2


def test_nothing_to_fall_back_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"PK")
    Checkpoints(tmp_path).repair()
    assert not (tmp_path / "checkpoint.pth").exists()
    assert "is damaged; training starts again" in capsys.readouterr().out


@pytest.mark.parametrize("left", [None, b"PK half"])
def test_model_of_the_last_epoch_is_restored(tmp_path: Path, left: bytes | None) -> None:
    # Killed between checkpoint.pth and 3epoch.pth, or in writing the latter.
    write_epochs(tmp_path, 3)
    (tmp_path / "3epoch.pth").unlink()
    (tmp_path / "latest.pth").unlink()
    (tmp_path / "latest.pth").symlink_to("2epoch.pth")
    later = time.time() + 10
    os.utime(tmp_path / "checkpoint.pth", (later, later))
    if left is not None:
        (tmp_path / "3epoch.pth").write_bytes(left)
    Checkpoints(tmp_path).repair()
    assert torch.load(tmp_path / "3epoch.pth")["w"].tolist() == [3.0, 3.0]
    assert os.readlink(tmp_path / "latest.pth") == "3epoch.pth"


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that train with a program that only leaves a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for subset in ("train", "valid"):
        Path("stats", subset).mkdir(parents=True)
        Path("stats", subset, "speech_shape").write_text("u1 16000\n")
    Path("text").write_text("u1 A\n")
    Path("config.yaml").write_text("encoder: conformer\nmax_epoch: 2\n")
    Path("teacher.pth").write_text("weights")
    Path("fake.py").write_text(
        "import os, zipfile\n"
        "open('runs', 'a').write('x')\n"
        "for name in ('checkpoint', '1epoch'):\n"
        "    zipfile.ZipFile(f'exp/{name}.pth', 'w').close()\n"
        "if not os.path.lexists('exp/latest.pth'): os.symlink('1epoch.pth', 'exp/latest.pth')\n"
        "os.utime('exp/checkpoint.pth', (0, 0))\n"
    )
    data = ["--train_data_path_and_name_and_type", "text,text,text"]
    for subset in ("train", "valid"):
        data += [f"--{subset}_shape_file", f"stats/{subset}/speech_shape"]
    model = ["--model_conf", "teacher_model_file=teacher.pth"]
    own = ["--experiment", "exp", "--config", "config.yaml", "--"]
    return [*own, sys.executable, "fake.py", *data, *model]


def test_finished_training_is_not_repeated(prepared: list[str]) -> None:
    assert run_helper("train.py", *prepared).returncode == 0
    done = run_helper("train.py", *prepared)
    assert "exp: already trained" in done.stdout
    Path("config.yaml").write_text("encoder: conformer\nmax_epoch: 3\n")
    assert "training resumed" in run_helper("train.py", *prepared).stdout
    assert Path("runs").read_text() == "xx"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.yaml", "encoder: transformer\n", "(encoder of the configuration changed)"),
        ("teacher.pth", "other weights", "(a file that the arguments name changed)"),
        ("text", "u1 B\n", "(the data changed)"),
        ("stats/valid/speech_shape", "u1 17000\n", "(the data changed)"),
    ],
)
def test_another_training_is_refused(
    prepared: list[str], file: str, content: str, said: str
) -> None:
    assert run_helper("train.py", *prepared).returncode == 0
    record = Path("exp", RECORD).read_text()
    Path(file).write_text(content)
    done = run_helper("train.py", *prepared)
    assert_one_line_error(done, said)
    assert json.loads(Path("exp", RECORD).read_text()) == json.loads(record)
    assert Path("runs").read_text() == "x"
