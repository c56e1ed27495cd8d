"""What is written where no font has the letters."""

from pathlib import Path

import matplotlib
import pytest

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.usage import lettering
from espnet_moe_share.usage.lettering import find_lettering

OWN = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_latin_needs_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering.font_manager, "findSystemFonts", lambda: 1 / 0)
    found = find_lettering(["héllo ▁", "<blank>"])
    assert found.families == ("DejaVu Sans",) and found.note == ""
    assert found.write("héllo") == "héllo"


def test_pinyin_without_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering.font_manager, "findSystemFonts", lambda: [])
    found = find_lettering(["二十a"])
    assert found.write("二十a") == "èrshía"
    assert "2 letters are written as pinyin" in found.note
    assert find_lettering(["ꦏ"]).write("ꦏ") == "U+A98F"


def test_font_with_most_of_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """U+E000 stands for a letter that only another of matplotlib's own fonts has."""
    fonts = [str(OWN / name) for name in ("DejaVuSansMono.ttf", "STIXNonUni.ttf")]
    monkeypatch.setattr(lettering.font_manager, "findSystemFonts", lambda: fonts)
    found = find_lettering(["a\ue044"])
    assert found.families == ("DejaVu Sans", "STIXNonUnicode") and not found.note
    assert find_lettering(["a\ue044"], OWN / "STIXNonUni.ttf") == found


def test_no_font_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("no font")
    with pytest.raises(ConfigurationError, match="no font file"):
        find_lettering(["二"], tmp_path / "x.txt")
