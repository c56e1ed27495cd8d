"""A file of text, or half a checkpoint of an older torch, ended in a KeyError or the like."""

import io
from pathlib import Path

import pytest
import torch

from espnet_moe_share.checkpoint import read_weights
from espnet_moe_share.errors import ConfigurationError


def _half() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize("content", [b"hello\n", b"version https://git-lfs\n", b"", _half()])
def test_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ConfigurationError, match="; only weights are loaded") as refused:
        read_weights(tmp_path / "model.pth")
    assert "\n" not in str(refused.value)
