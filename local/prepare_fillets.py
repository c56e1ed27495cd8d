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
import hashlib
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from command_line import UserError, run
from data_directory import (
    DataDirectory,
    read_data_directory,
    whole_directory,
    write_data_directory,
)
from fillets_split import Utterance, repeated_texts, split_levels
from lua_dialogs import DialogLine, LuaSyntaxError, read_dialogs

SAMPLE_RATE = 16000
GAME_FOLDER = Path("usr/share/games/fillets-ng")
# The folder of the recordings that belongs to script/share/<kind>_dialogs_<lang>.lua, as the
# game's own calls of dialogLoad pair them.
SHARED_SOUND = {
    "black": "blackjokes",
    "bore": "borejokes",
    "border": "border",
    "intro": "intro",
    "shout": "border",
}
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


def speaker_of(font: str) -> str:
    """Return the speaker id of a Lua font name: ``font_small`` is ``small``, none is ``other``."""
    return re.sub(r"[^a-z0-9]", "", font.lower().removeprefix("font_")) or "other"


def find_roots(folders: Sequence[Path], lang: str) -> list[Path]:
    """Return the game's folders in ``folders``: each is one itself or an unpacked package.

    Raises:
        UserError: no folder holds dialogue texts, or none holds recordings, of ``lang``.
    """
    roots = [f / GAME_FOLDER if (f / GAME_FOLDER).is_dir() else f for f in folders]
    named = ", ".join(str(f) for f in folders)
    for pattern, package in (
        (f"script/*/*dialogs_{lang}.lua", "fillets-ng-data"),
        (f"sound/*/{lang}/*.ogg", f"fillets-ng-data-{lang}"),
    ):
        if not any(next(root.glob(pattern), None) for root in roots):
            raise UserError(
                f"no file {pattern} in {named} (nor in {GAME_FOLDER} there): expected the unpacked"
                f" Debian package {package}"
            )
    return roots


def collect_lines(roots: Sequence[Path], lang: str, dropped: Counter[str]) -> list[Utterance]:
    """Pair every line of dialogue with its recording, in the order of the utterance ids.

    ``dropped`` is given the number of lines left out for each reason.

    Raises:
        UserError: a dialogue file is not readable Lua in UTF-8, or no line is left.
    """
    found: dict[str, Utterance] = {}
    hashes: dict[str, str] = {}
    for root in roots:
        for script in sorted(root.glob(f"script/*/*dialogs_{lang}.lua")):
            try:
                lines = read_dialogs(script)
            except (LuaSyntaxError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read {script}: {error}") from error
            folder = _sound_folder(script)
            for line in lines:
                try:
                    utterance = _pair(line, script, folder, roots, lang)
                    if utterance.utt_id in found:
                        raise DroppedLine("repeated line id")
                    digest = hashlib.sha256(utterance.sound.read_bytes()).hexdigest()
                    if digest in hashes:
                        raise DroppedLine("recording used before")
                except DroppedLine as reason:
                    dropped[str(reason)] += 1
                    continue
                hashes[digest] = utterance.utt_id
                found[utterance.utt_id] = utterance
    if not found:
        raise UserError(f"no line with text and recording in {', '.join(map(str, roots))}")
    return [found[utt_id] for utt_id in sorted(found)]


def _sound_folder(script: Path) -> str:
    level = script.parent.name
    if level != "share":
        return level
    kind = script.name.partition("_")[0]
    return f"share/{SHARED_SOUND.get(kind, kind)}"


def _pair(
    line: DialogLine, script: Path, folder: str, roots: Sequence[Path], lang: str
) -> Utterance:
    candidates = [root / "sound" / folder / lang / f"{line.dialog_id}.ogg" for root in roots]
    sound = next((path for path in candidates if path.is_file()), None)
    if sound is None:
        raise DroppedLine("no recording")
    if line.text is None:
        raise DroppedLine("not translated")
    speaker = speaker_of(line.font)
    level = folder.rpartition("/")[2]
    utt_id = f"{speaker}-{level}-{line.dialog_id}"
    if re.search(r"[^A-Za-z0-9_.-]", utt_id):
        raise UserError(f"{script}: {line.dialog_id!r} cannot be part of an utterance id")
    text = normalise_text(line.text, lang)
    return Utterance(utt_id, speaker, level, script.parent.name == "share", text, sound)


def decode(sound: Path, wav: Path) -> float:
    """Write the recording ``sound`` to ``wav`` as 16 kHz mono and return its seconds.

    A ``wav`` that is there and as long as the recording is kept.

    Raises:
        DroppedLine: ``sound`` cannot be decoded or holds no audio.
        OSError: ``wav`` cannot be written.
    """
    try:
        source = soundfile.info(sound)
        if source.frames > 0 and wav.is_file() and _is_complete(wav, source.duration):
            return float(soundfile.info(wav).duration)
        samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DroppedLine("unreadable recording") from error
    if len(samples) == 0:
        raise DroppedLine("empty recording")
    mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    buffer = io.BytesIO()
    # Through memory, because libsndfile reports a full disk as a short count, not as an error.
    soundfile.write(buffer, np.clip(mono, -1.0, 1.0), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    temporary = wav.with_name(f".{wav.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(wav)
    except OSError as error:
        # A failed write, unlike a failed open, does not name the file.
        raise OSError(error.errno, error.strerror, str(wav)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(mono) / SAMPLE_RATE


def _is_complete(wav: Path, seconds: float) -> bool:
    try:
        info = soundfile.info(wav)
    except soundfile.LibsndfileError:
        return False
    same_format = (info.samplerate, info.channels) == (SAMPLE_RATE, 1)
    return same_format and abs(float(info.duration) - seconds) < 2 / SAMPLE_RATE


def decode_all(
    utterances: Sequence[Utterance], wav_dir: Path, dropped: Counter[str]
) -> tuple[list[Utterance], list[str]]:
    """Decode every recording; return the utterances with their seconds and the lines left out.

    The second list names the file and the reason of each recording that has no audio.
    """
    wav_dir.mkdir(parents=True, exist_ok=True)

    def one(utterance: Utterance) -> float | DroppedLine:
        try:
            return decode(utterance.sound, wav_dir / f"{utterance.utt_id}.wav")
        except DroppedLine as reason:
            return reason

    kept: list[Utterance] = []
    named: list[str] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for utterance, result in zip(utterances, pool.map(one, utterances), strict=True):
            if isinstance(result, DroppedLine):
                dropped[str(result)] += 1
                named.append(f"{result}: {utterance.sound}")
            else:
                kept.append(replace(utterance, seconds=result))
    return kept, named


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
