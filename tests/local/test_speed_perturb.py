"""local/speed_perturb.py: what is named, how long it gets and at what pitch."""

from pathlib import Path

import numpy as np
import soundfile
from driver_data import assert_one_line_error, make_data_directory, run_helper


def columns(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def test_three_way(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", {"s1-a": "你 好", "s2-b": "B"}, 1.0)
    target = tmp_path / "train_sp"
    done = run_helper("speed_perturb.py", source, target, "--factors", "0.9 1.0 1.1")
    assert done.returncode == 0, done.stderr

    wavs = columns(target / "wav.scp")
    expected = ["s1-a", "s2-b", "sp0.9-s1-a", "sp0.9-s2-b", "sp1.1-s1-a", "sp1.1-s2-b"]
    assert list(wavs) == expected
    assert wavs["s1-a"] == f"{source}/wav/s1-a.wav"
    assert columns(target / "text")["sp0.9-s1-a"] == "你 好"
    assert columns(target / "utt2spk")["sp1.1-s2-b"] == "sp1.1-s2"
    assert columns(target / "spk2utt")["sp0.9-s1"] == "sp0.9-s1-a"
    for factor in (0.9, 1.1):
        samples, rate = soundfile.read(wavs[f"sp{factor}-s1-a"])
        assert rate == 16000
        assert abs(len(samples) - 16000 / factor) <= 1
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        pitch = spectrum.argmax() * rate / len(samples)
        assert abs(pitch - 440 * factor) < rate / len(samples)


def test_reused_until_something_changes(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", {"s1-a": "A"})
    target = tmp_path / "train_sp"
    arguments = (source, target, "--factors")
    run_helper("speed_perturb.py", *arguments, "0.9")
    made = (target / "wav.scp").stat().st_mtime_ns
    assert "up to date" in run_helper("speed_perturb.py", *arguments, "0.9").stdout
    assert (target / "wav.scp").stat().st_mtime_ns == made
    assert run_helper("speed_perturb.py", *arguments, "0.9 1.1").returncode == 0
    assert len(columns(target / "wav.scp")) == 2


def test_bad_input_leaves_what_was_there(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", {"s1-a": "A", "s1-b": "B"})
    target = tmp_path / "train_sp"
    run_helper("speed_perturb.py", source, target, "--factors", "0.9")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    (source / "wav" / "s1-b.wav").write_bytes(b"no audio")
    done = run_helper("speed_perturb.py", source, target, "--factors", "0.9")
    assert_one_line_error(done, "s1-b.wav: not readable as audio")
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train_sp"]


def test_bad_factors(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", {"s1-a": "A"})
    for factors in ("fast", "0.9 0.90", "0"):
        done = run_helper("speed_perturb.py", source, tmp_path / "sp", "--factors", factors)
        assert_one_line_error(done, "--speed_perturb_factors")
