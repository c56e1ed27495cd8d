"""expert_usage ended in tracebacks, or took one of two values, where data were odd."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.usage.data import read_data_directory
from espnet_moe_share.usage.lettering import find_lettering
from espnet_moe_share.usage.model import UsageModel


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"utt2lang": b"a \xe9\nb x\n"}, "utt2lang: not UTF-8 at byte 2"),
        ({"wav.scp": b"a \xe9.wav\n"}, "wav.scp: not UTF-8 at byte 2"),
        ({"wav.scp": b"a a.wav\nb b.wav\na c.wav\n"}, "wav.scp:3: a is in line 1, too"),
        ({"text": b"a x\nb y\na z\n"}, "text:3: a is in line 1, too"),
        ({"utt2lang": b"a \nb x\n"}, "utt2lang: a has no label; add it"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, content in {"wav.scp": b"a a.wav\nb b.wav\n", **files}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        read_data_directory(tmp_path)
    assert str(error.value) == f"{tmp_path}/{said}"


def test_tabs_part_columns(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a\ta b.wav\n\n")
    (tmp_path / "text").write_text("a \t x\u2028 y\n")
    data = read_data_directory(tmp_path)
    assert data.recordings == {"a": Path("a b.wav")} and data.texts == {"a": "x\u2028 y"}


@pytest.mark.parametrize("samples", [0, 1, 128, 256, 257])
def test_recordings_shorter_than_half_a_window(samples: int) -> None:
    model = UsageModel(tiny_models.build(tiny_models.config()), tiny_models.TOKENS, "".join)
    with pytest.raises(ConfigurationError, match=f"^{samples} samples are too short for the enc"):
        model.encode(np.zeros(samples, np.float32))


def test_font_that_is_named_like_one_only(tmp_path: Path) -> None:
    (tmp_path / "x.ttf").write_text("no font")
    with pytest.raises(ConfigurationError, match=r"--font .*x\.ttf: no font file"):
        find_lettering(["二"], tmp_path / "x.ttf")
