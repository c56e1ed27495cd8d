"""local/format_wav.py: every unfit utterance is refused before anything is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from driver_data import assert_one_line_error, make_data_directory, run_helper, write_tone

TEXTS = {"s1-a": "ab c", "s1-b": "d"}


def test_lists_and_lengths(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", TEXTS, {"s1-a": 0.5, "s1-b": 0.25})
    target = tmp_path / "dump" / "raw" / "org" / "train"
    done = run_helper("format_wav.py", source, target, "--fs", "16k")
    assert done.returncode == 0, done.stderr
    assert (target / "utt2num_samples").read_text() == "s1-a 8000\ns1-b 4000\n"
    assert (target / "feats_type").read_text() == "raw\n"
    assert (target / "audio_format").read_text() == "wav\n"
    assert (target / "text").read_text() == "s1-a ab c\ns1-b d\n"
    assert (target / "spk2utt").read_text() == "s1 s1-a s1-b\n"
    assert "up to date" in run_helper("format_wav.py", source, target).stdout
    write_tone(source / "wav" / "s1-b.wav", 1.0)
    assert run_helper("format_wav.py", source, target).returncode == 0
    assert (target / "utt2num_samples").read_text() == "s1-a 8000\ns1-b 16000\n"


def empty_file(data: Path) -> None:
    (data / "wav" / "s1-b.wav").write_bytes(b"")


def no_samples(data: Path) -> None:
    soundfile.write(data / "wav" / "s1-b.wav", np.zeros(0), 16000)


def not_audio(data: Path) -> None:
    (data / "wav" / "s1-b.wav").write_text("hello, this is no audio at all")


def other_rate(data: Path) -> None:
    write_tone(data / "wav" / "s1-b.wav", 0.5, rate=8000)


def stereo(data: Path) -> None:
    soundfile.write(data / "wav" / "s1-b.wav", np.zeros((800, 2)), 16000)


def missing_file(data: Path) -> None:
    (data / "wav" / "s1-b.wav").unlink()


def truncated_flac(data: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(data / "wav" / "whole.flac", samples, 16000)
    whole = (data / "wav" / "whole.flac").read_bytes()
    (data / "wav" / "s1-b.wav").write_bytes(whole[: len(whole) // 2])


def text_missing(data: Path) -> None:
    (data / "text").write_text("s1-a ab c\n")


def text_empty(data: Path) -> None:
    (data / "text").write_text("s1-a ab c\ns1-b\n")


def text_not_utf8(data: Path) -> None:
    (data / "text").write_bytes(b"s1-a ab c\ns1-b \xff\n")


def audio_missing(data: Path) -> None:
    (data / "text").write_text("s1-a ab c\ns1-b d\ns1-c e\n")


def id_twice(data: Path) -> None:
    (data / "wav.scp").write_text((data / "wav.scp").read_text() * 2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty_file, "s1-b.wav: an empty file"),
        (no_samples, "s1-b.wav: holds no samples"),
        (not_audio, "s1-b.wav: not readable as audio"),
        (other_rate, "sampling rate 8000 Hz; --fs asks for 16000 Hz"),
        (stereo, "2 channels; one is needed"),
        (missing_file, "s1-b.wav: No such file"),
        (truncated_flac, "s1-b.wav: not readable as audio"),
        (text_missing, "utterance s1-b of wav.scp has no text"),
        (text_empty, "utterance s1-b of wav.scp has no text"),
        (text_not_utf8, "text: not UTF-8 at byte 15"),
        (audio_missing, "utterance s1-c is not in"),
        (id_twice, "wav.scp:3: id s1-a occurs a second time"),
    ],
)
def test_unfit_utterance(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    source = make_data_directory(tmp_path / "train", TEXTS)
    spoil(source)
    done = run_helper("format_wav.py", source, tmp_path / "dump" / "train")
    assert_one_line_error(done, said)
    assert not list(tmp_path.glob("dump/*"))


def test_bad_rate_and_unwritable_target(tmp_path: Path) -> None:
    source = make_data_directory(tmp_path / "train", TEXTS)
    done = run_helper("format_wav.py", source, tmp_path / "dump", "--fs", "high")
    assert_one_line_error(done, "--fs high: a sampling rate")
    (tmp_path / "file").write_text("")
    done = run_helper("format_wav.py", source, tmp_path / "file" / "train")
    assert_one_line_error(done, f"{tmp_path / 'file'}")
