"""How large a corpus is, and how large it has to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from command_line import UserError, written_whole
from data_directory import DataDirectory

# Of the complete corpus. 325 of its recordings have no transcript. The tokens are those of ESPnet's
# character model: the distinct characters of the training text and <blank>, <unk> and <sos/eos>.
AISHELL_1 = {
    "wavs": 141_925,
    "train_utterances": 120_098,
    "dev_utterances": 14_326,
    "test_utterances": 7_176,
    "dev_characters": 205_341,
    "test_characters": 104_765,
    "tokens": 4_233,
}
_SPECIAL_TOKENS = 3
NAMES = (
    "wavs",
    *(f"{name}_utterances" for name in ("train", "dev", "test")),
    *(f"{name}_characters" for name in ("train", "dev", "test")),
    "tokens",
)
HELP = (
    "counts that the corpus must have: full (those of AISHELL-1), none, a list such as "
    "wavs=20,train_utterances=12, or a file with such entries; the names are " + ", ".join(NAMES)
)


def count(wavs: int, sets: Mapping[str, DataDirectory]) -> dict[str, int]:
    """Count what NAMES names.

    Args:
        wavs: number of recordings, with transcript or without.
        sets: the utterances of `train`, `dev` and `test`.
    """
    counts = {"wavs": wavs}
    for name, data in sets.items():
        counts[f"{name}_utterances"] = len(data.texts)
        counts[f"{name}_characters"] = sum(map(len, data.texts.values()))
    counts["tokens"] = len(set().union(*sets["train"].texts.values())) + _SPECIAL_TOKENS
    return {name: counts[name] for name in NAMES}


def read_expectation(text: str) -> dict[str, int]:
    """The counts that `--expect` asks for, by name.

    Raises:
        UserError: it is none of the forms that HELP names.
    """
    if text in ("full", "none"):
        return dict(AISHELL_1) if text == "full" else {}
    entries = text
    if "=" not in text:
        if not Path(text).is_file():
            raise UserError(f"--expect {text}: full, none, name=number,... or a file is needed")
        entries = Path(text).read_text(encoding="utf-8")
    expected: dict[str, int] = {}
    for entry in re.split(r"[,\s]+", entries.strip(", \n")):
        name, _, number = entry.partition("=")
        if name not in NAMES or not number.isdecimal():
            raise UserError(
                f"--expect: '{entry}' in {text}: name=number is needed, of the names "
                + ", ".join(NAMES)
            )
        expected[name] = int(number)
    return expected


def write_expectation(path: Path, counts: Mapping[str, int]) -> None:
    """Write a file for `--expect`."""
    with written_whole(path) as stream:
        stream.writelines(f"{name}={number}\n" for name, number in counts.items())


def check(counts: Mapping[str, int], expected: Mapping[str, int], corpus: Path) -> None:
    """Compare a corpus with what is expected of it.

    Raises:
        UserError: names every count that differs.
    """
    wrong = [
        f"{name} {counts[name]} instead of {number}"
        for name, number in expected.items()
        if counts[name] != number
    ]
    if wrong:
        raise UserError(
            f"{corpus}: {', '.join(wrong)}; complete the corpus, or pass --expect none or the right"
            " counts if this is what you mean to use"
        )
