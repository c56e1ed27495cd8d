#!/usr/bin/env python3
"""Prepare the dialogues of the game Fish Fillets NG as Kaldi-style data directories.

The game's texts and recordings (Debian source package ``fillets-ng-data``, the actors' voices in
``fillets-ng-data-nl`` and ``fillets-ng-data-cs``) are free software under the GNU General Public
License, version 2. Nothing of them is part of this repository; what this program writes is
derived from them and stays under that licence.

Source, relative to the game's folder (``usr/share/games/fillets-ng`` in the packages)::

    script/<level>/*dialogs_<lang>.lua    dialogId("<id>", "<font>", "<English>")
                                          dialogStr("<spoken text>")
    sound/<level>/<lang>/<id>.ogg         the recording of line <id>
    script/share/<kind>_dialogs_<lang>.lua, sound/share/<folder>/<lang>/<id>.ogg

Written: 16 kHz mono 16-bit wav files, one for each line, and the directories ``train_<lang>``,
``dev_<lang>`` and ``test_<lang>`` with ``wav.scp``, ``text``, ``utt2spk`` and ``spk2utt``.

What is decided here, and why:

* Speaker: the role, that is the Lua font without ``font_`` (``small`` and ``big`` are the two
  fish that say most lines). The actors are fewer than the roles, but the game does not say
  who plays whom. A line without a font belongs to the speaker ``other``.
* Text: lower case, NFC; punctuation and hyphens become a space, so that parts of a word that
  a hyphen joins stay words. An apostrophe stays where the language writes it in words (Dutch
  "zo'n", "'t"), and is dropped as a quotation mark. Accented letters are kept. The same for all
  sets.
* Lines with a digit or a symbol that is read aloud ("LC-10", "C++", "%1") are left out, since
  their spelling does not say how the actor read them; there are few. Lines with a letter outside
  the language's alphabet (jokes in other scripts) are left out as well.
* A recording that occurs twice byte for byte is used once, so it cannot be in two sets.
* Sets are made of whole levels, as ``fillets_split.py`` describes.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from command_line import UserError, run
from data_directory import (
    DataDirectory,
    read_data_directory,
    whole_directory,
    write_data_directory,
)
from fillets_audio import decode_all
from fillets_lines import collect_lines, find_roots
from fillets_split import Utterance, repeated_texts, split_levels
from fillets_text import ALPHABET


def write_set(lines: Sequence[Utterance], directory: Path, wav_dir: Path) -> None:
    """Write a data directory; one with the same contents is left as it is, its times included.

    Raises:
        OSError: the directory cannot be written.
    """
    data = DataDirectory(
        wavs={u.utt_id: str(wav_dir / f"{u.utt_id}.wav") for u in lines},
        texts={u.utt_id: u.text for u in lines},
        speakers={u.utt_id: u.speaker for u in lines},
    )
    with contextlib.suppress(UserError):
        if (directory / "spk2utt").is_file() and read_data_directory(directory) == data:
            return
    with whole_directory(directory, {"made_by": "prepare_fillets.py"}) as temporary:
        write_data_directory(temporary, data)


def summary(sets: dict[str, list[Utterance]], lang: str) -> str:
    """Return the table of utterances, hours, speakers, levels and characters for each set."""
    rows = [
        f"{'set':<10}{'utts':>7}{'hours':>8}{'spk':>6}{'levels':>8}{'chars':>8}{'distinct':>10}"
    ]
    for name, lines in sets.items():
        text = "".join(u.text for u in lines)
        rows.append(
            f"{name + '_' + lang:<10}{len(lines):>7}{sum(u.seconds for u in lines) / 3600:>8.3f}"
            f"{len({u.speaker for u in lines}):>6}{len({u.level for u in lines}):>8}"
            f"{len(text):>8}{len(set(text)):>10}"
        )
    return "\n".join(rows)


def prepare(folders: Sequence[Path], lang: str, wav_dir: Path, data_dir: Path, seed: int) -> str:
    """Write the wav files and the three sets; return the report for the user.

    Raises:
        UserError: the source does not hold what is needed.
        OSError: something cannot be written.
    """
    if lang not in ALPHABET:
        raise UserError(f"unknown --lang {lang!r}: expected one of {', '.join(ALPHABET)}")
    dropped: Counter[str] = Counter()
    lines = collect_lines(find_roots(folders, lang), lang, dropped)
    lines, named = decode_all(lines, wav_dir, dropped)
    sets = split_levels(lines, seed)
    for name, members in sets.items():
        write_set(members, data_dir / f"{name}_{lang}", wav_dir)
    report = [summary(sets, lang)]
    report += [f"left out, {reason}: {count}" for reason, count in sorted(dropped.items())]
    report += named
    for name in ("dev", "test"):
        report.append(
            f"{name}_{lang} lines whose text is also in train_{lang}:"
            f" {repeated_texts(sets[name], sets['train'])} of {len(sets[name])}"
        )
    return "\n".join(report)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Prepare the dialogues of Fish Fillets NG.")
    parser.add_argument(
        "--fillets",
        type=Path,
        nargs="+",
        required=True,
        help="unpacked packages, or the game's folder with script/ and sound/",
    )
    parser.add_argument("--lang", default="nl", help="nl (Dutch) or cs (Czech)")
    parser.add_argument("--wav-dir", type=Path, required=True, help="where the wav files go")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0, help="of the split into sets")
    args = parser.parse_args(argv)
    print(prepare(args.fillets, args.lang, args.wav_dir, args.data_dir, args.seed))


if __name__ == "__main__":
    run(main)
