"""recognize_onnx took the last of two recordings of one id, and any number of threads, as given."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_moe_share.bin.recognize_onnx import main, read_speech


@pytest.mark.parametrize(
    ("wav_scp", "said"),
    [
        (b"u a.wav\nv b.wav\nu c.wav\n", "wav.scp: u occurs twice"),
        (b"u \xe9.wav\n", "wav.scp: not UTF-8 at byte 2"),
        (b"u a.wav\nv\n", "wav.scp: v has no audio file"),
    ],
)
def test_lists(tmp_path: Path, wav_scp: bytes, said: str) -> None:
    (tmp_path / "wav.scp").write_bytes(wav_scp)
    files = ["--model_file", "x.onnx", "--wav_scp", str(tmp_path / "wav.scp")]
    with pytest.raises(SystemExit) as refused:
        main([*files, "--output", str(tmp_path / "hyp")])
    assert refused.value.code == f"recognize_onnx: error: {tmp_path}/{said}"
    assert [path.name for path in tmp_path.iterdir()] == ["wav.scp"]


def test_threads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model_file", "x", "--wav_scp", "x", "--output", "x", "--num_threads", "-3"])
    assert "-3: a number from 1 is needed" in capsys.readouterr().err


def test_channels_are_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "six.wav", np.zeros((100, 6)), 16000)
    with pytest.raises(ValueError, match=r"six\.wav: 16000 Hz and 6 channels"):
        read_speech(str(tmp_path / "six.wav"), 16000)
