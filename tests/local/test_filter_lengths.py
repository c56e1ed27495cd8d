"""local/filter_lengths.py: both limits are excluded, as in ESPnet, and the dropped are counted."""

from pathlib import Path

from driver_data import assert_one_line_error, make_data_directory, run_helper

SECONDS = {"s1-a": 0.1, "s1-b": 0.11, "s2-c": 0.49, "s2-d": 0.5, "s2-e": 0.6}


def formatted(tmp_path: Path) -> Path:
    source = make_data_directory(tmp_path / "train", dict.fromkeys(SECONDS, "x"), SECONDS)
    assert run_helper("format_wav.py", source, tmp_path / "org").returncode == 0
    return tmp_path / "org"


def test_limits(tmp_path: Path) -> None:
    limits = ("--min_wav_duration", "0.1", "--max_wav_duration", "0.5")
    done = run_helper("filter_lengths.py", formatted(tmp_path), tmp_path / "kept", *limits)
    assert done.returncode == 0, done.stderr
    assert "2 of 5 utterances kept; dropped 1 of at most 0.1 s and 2 of at least" in done.stdout
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        ids = [line.split()[0] for line in (tmp_path / "kept" / name).read_text().splitlines()]
        assert ids == ["s1-b", "s2-c"], name
    assert (tmp_path / "kept" / "spk2utt").read_text() == "s1 s1-b\ns2 s2-c\n"
    assert (tmp_path / "kept" / "feats_type").read_text() == "raw\n"


def test_nothing_left(tmp_path: Path) -> None:
    limits = ("--min_wav_duration", "5")
    done = run_helper("filter_lengths.py", formatted(tmp_path), tmp_path / "kept", *limits)
    assert_one_line_error(done, "of 5 utterances none is longer than 5.0 s")
    assert not (tmp_path / "kept").exists()
