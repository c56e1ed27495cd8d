"""Fonts that have the letters of a text, and what to write where none has them."""

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from espnet_moe_share.errors import ConfigurationError

HINT = "--font FILE takes one, such as Debian's fonts-wqy-microhei or fonts-noto-cjk"


@dataclass(frozen=True)
class Lettering:
    """How to write the tokens of a model.

    Attributes:
        families: Font families in the order in which a letter is looked for.
        replaced: Letters that no font has -> what is written instead.
    """

    families: tuple[str, ...]
    replaced: dict[str, str]

    def write(self, text: str) -> str:
        """The text with what can be shown."""
        return "".join(self.replaced.get(letter, letter) for letter in text)

    @property
    def note(self) -> str:
        """What a reader must know, or nothing."""
        if not self.replaced:
            return ""
        # Without the letters themselves: the note stands in the figures, too.
        how = "pinyin" if all(map(_is_han, self.replaced)) else "pinyin or code points"
        return f"{len(self.replaced)} letters are written as {how}, as no font here has them"

    @contextmanager
    def used(self) -> Iterator[None]:
        """Figures made and written in the block take these fonts."""
        with matplotlib.rc_context({"font.family": list(self.families)}):
            yield


def find_lettering(texts: Iterable[str], font: Path | None = None) -> Lettering:
    """Find a font for the letters that matplotlib's own lacks.

    Args:
        texts: All that is to be written.
        font: A font file to take; None: any that the system has.

    Raises:
        ConfigurationError: The font file cannot be read.
    """
    own = font_manager.findfont("DejaVu Sans")
    missing = {letter for text in texts for letter in text} - _letters(Path(own))
    families = ["DejaVu Sans"]
    if missing:
        best, covered = font, set[str]()
        if font is None:
            for file in sorted(font_manager.findSystemFonts()):
                found = set[str]()
                with contextlib.suppress(OSError, RuntimeError):  # a broken font of the system
                    found = missing & _letters(Path(file))
                if len(found) > len(covered):
                    best, covered = Path(file), found
                if covered == missing:
                    break
        else:
            try:
                covered = missing & _letters(font)
            except (OSError, RuntimeError) as error:
                raise ConfigurationError(f"--font {font}: no font file ({error})") from None
        if best is not None:
            font_manager.fontManager.addfont(best)
            families.append(FT2Font(str(best)).family_name)
            missing -= covered
    return Lettering(tuple(families), {letter: _spell(letter) for letter in missing})


def _letters(font: Path) -> set[str]:
    return {chr(code) for code in FT2Font(str(font)).get_charmap()}


def _is_han(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("CJK ")


def _spell(letter: str) -> str:
    if _is_han(letter):
        from pypinyin import Style, lazy_pinyin

        return " ".join(lazy_pinyin(letter, style=Style.TONE))
    return f"U+{ord(letter):04X}"
