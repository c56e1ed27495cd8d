"""Texts of Fish Fillets NG as words that an ASR model is trained on; why so: prepare_fillets.py."""

from __future__ import annotations

import re
import unicodedata

ALPHABET = {
    "nl": frozenset("abcdefghijklmnopqrstuvwxyzáàäâçéèëêíïîóòöôúùüû'"),
    "cs": frozenset("abcdefghijklmnopqrstuvwxyzáčďéěíňóřšťúůýž"),
}
_SILENT = re.compile(r"[.,?!:;\"“”„‚‘«»()\[\]…–—\-]")
_WORD_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])|(?<!\S)'(?=[^\W\d_](?!\w))")


class DroppedLine(Exception):
    """One line of dialogue is left out; the message is the reason, for the count of them."""


def normalise_text(text: str, lang: str) -> str:
    """Return ``text`` as the words an ASR model is trained on and scored with.

    Raises:
        DroppedLine: the text has a digit or symbol, a letter of another alphabet, or no word.
    """
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    text = _SILENT.sub(" ", text)
    if "'" in ALPHABET[lang]:
        kept = {match.start() for match in _WORD_APOSTROPHE.finditer(text)}
    else:
        kept = set()
    text = "".join(" " if c == "'" and i not in kept else c for i, c in enumerate(text))
    text = " ".join(text.split())
    unknown = sorted(set(text) - ALPHABET[lang] - {" "})
    if any(c.isalpha() for c in unknown):
        raise DroppedLine("letter of another alphabet")
    if unknown:
        raise DroppedLine("digit or symbol")
    if not text:
        raise DroppedLine("no word in the text")
    return text
