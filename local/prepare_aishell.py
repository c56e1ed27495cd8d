#!/usr/bin/env python3
"""Make Kaldi-style data directories from a corpus in AISHELL-1's layout.

Reads ``<aishell>/data_aishell/wav/{train,dev,test}/<speaker>/<utterance id>.wav`` and
``<aishell>/data_aishell/transcript/aishell_transcript_v0.8.txt`` (``<utterance id> <word> ...``),
writes ``<data_dir>/<set>/{wav.scp,text,utt2spk,spk2utt}``. The speaker is the folder of the wav,
the utterance id its name, and the text loses its spaces, all as in ESPnet's AISHELL recipe.

Left out and counted: recordings without transcript (AISHELL-1 has 325: of 141,925 recordings
141,600 remain) and transcripts without recording. Counted, with a warning: recordings whose header
promises more samples than the file has. Errors, before anything is written: an id that occurs
twice, an empty transcript, a recording that is unreadable, empty, not mono or of another sampling
rate, and counts that are not those of `--expect`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import corpus_counts
import soundfile
from command_line import UserError, parse_rate, run
from data_directory import DataDirectory, read_columns, whole_directory, write_data_directory
from progress import progress_bar

SETS = ("train", "dev", "test")
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"
_NAME = "prepare_aishell.py"
_THREADS = 8


def read_transcripts(path: Path) -> dict[str, str]:
    """Return the text without spaces of each utterance id.

    Raises:
        UserError: no such file, not UTF-8, an id twice, or an id without text.
    """
    texts = {utterance: "".join(text.split()) for utterance, text in read_columns(path).items()}
    for utterance, text in texts.items():
        if not text:
            raise UserError(f"{path}: utterance {utterance} has no text; add it or delete the line")
    return texts


def find_wavs(folder: Path) -> list[Path]:
    """Return ``folder/<speaker>/*.wav``, sorted.

    Raises:
        UserError: there are none.
    """
    wavs = sorted(folder.glob("*/*.wav"))
    if not wavs:
        packed = any(folder.glob("*.tar.gz")) or any(folder.parent.glob("*.tar.gz"))
        raise UserError(
            f"{folder}: no <speaker>/*.wav"
            + (" but *.tar.gz: unpack those there first" if packed else "")
        )
    return wavs


def match_transcripts(wavs: Iterable[Path], texts: dict[str, str]) -> DataDirectory:
    """Return the recordings that have a transcript.

    Raises:
        UserError: a space in an id, or ids whose order is not that of their speakers (Kaldi's tools
            and ESPnet's refuse such a directory).
    """
    data = DataDirectory()
    for wav in wavs:
        utterance, speaker = wav.stem, wav.parent.name
        if len(f"{utterance}{speaker}".split()) != 1:
            raise UserError(f"{wav}: space in the name of the file or of its folder")
        if utterance in texts:
            data.wavs[utterance] = str(wav)
            data.texts[utterance] = texts[utterance]
            data.speakers[utterance] = speaker
    for before, after in pairwise(sorted(data.speakers)):
        if data.speakers[before] > data.speakers[after]:
            raise UserError(
                f"{data.wavs[after]}: by utterance id, speaker {data.speakers[after]} comes after "
                f"{data.speakers[before]}; utterance ids must sort as their speakers do"
            )
    return data


def check_audio(wavs: Sequence[str], sample_rate: int) -> tuple[float, list[str]]:
    """Read the header of every recording.

    Returns:
        Their length in hours, and those that are shorter than their header says.

    Raises:
        UserError: one is unreadable, empty, not mono, or of another sampling rate.
    """
    hours, short = 0.0, []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        checked = pool.map(lambda wav: _check(wav, sample_rate), wavs)
        bar = progress_bar(checked, total=len(wavs), desc="audio headers")
        for wav, (seconds, whole) in zip(wavs, bar, strict=True):
            hours += seconds / 3600
            if not whole:
                short.append(wav)
    finally:
        pool.shutdown(cancel_futures=True)
    return hours, short


def _check(wav: str, sample_rate: int) -> tuple[float, bool]:
    """Length in seconds, and whether it is what the header says."""
    try:
        info = soundfile.info(wav)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{wav}: unreadable audio ({' '.join(str(error).split())})") from error
    if info.frames == 0:
        raise UserError(f"{wav}: empty audio")
    if info.samplerate != sample_rate:
        raise UserError(f"{wav}: {info.samplerate} Hz, {sample_rate} Hz expected (--fs)")
    if info.channels != 1:
        raise UserError(f"{wav}: {info.channels} channels, 1 expected")
    # libsndfile takes the length from the file then, and says so only in its log.
    whole = re.search(r"^data : \d+ \(should be", info.extra_info, re.MULTILINE) is None
    return float(info.frames / info.samplerate), whole


def prepare(
    aishell: Path,
    data_dir: Path,
    set_names: Sequence[str],
    sample_rate: int,
    expected: Mapping[str, int],
) -> None:
    """Check the whole corpus, then write its three data directories and print their sizes.

    Args:
        aishell: the folder with ``data_aishell`` in it.
        data_dir: where the data directories are written.
        set_names: their names, in the order of SETS.
        sample_rate: of every recording, in Hz.
        expected: counts that the corpus must have, of those that corpus_counts.NAMES names.

    Raises:
        UserError: see the functions above; nothing is written then.
        OSError: ``data_dir`` cannot be written.
    """
    corpus = aishell.resolve() / "data_aishell"
    texts = read_transcripts(corpus / TRANSCRIPT)
    wavs = {name: find_wavs(corpus / "wav" / name) for name in SETS}
    first: dict[str, Path] = {}
    for wav in (wav for name in SETS for wav in wavs[name]):
        if first.setdefault(wav.stem, wav) != wav:
            raise UserError(f"{wav}: utterance id also of {first[wav.stem]}")
    sets = {name: match_transcripts(wavs[name], texts) for name in SETS}
    for name, data in sets.items():
        if not data.wavs:
            raise UserError(f"{corpus / TRANSCRIPT}: no transcript of any recording in wav/{name}")
    counts = corpus_counts.count(len(first), sets)
    corpus_counts.check(counts, expected, corpus)
    checked = {name: check_audio([*data.wavs.values()], sample_rate) for name, data in sets.items()}
    _warn(sorted(texts.keys() - first.keys()), "transcripts have no recording and are left out")
    short = [wav for _, found in checked.values() for wav in found]
    _warn(short, "recordings are shorter than their headers say")
    for (name, data), set_name in zip(sets.items(), set_names, strict=True):
        made_from: dict[str, object] = {"corpus": str(corpus), "set": name}
        with whole_directory(data_dir / set_name, made_from) as directory:
            write_data_directory(directory, data)
        print(
            f"{_NAME}: {data_dir / set_name}: {len(data.wavs)} utterances, "
            f"{len(set(data.speakers.values()))} speakers, {checked[name][0]:.2f} h; "
            f"{len(wavs[name]) - len(data.wavs)} recordings without transcript left out"
        )
    print(
        f"{_NAME}: "
        + ", ".join(
            f"{name} {number}" + (" (as expected)" if name in expected else "")
            for name, number in counts.items()
        )
    )


def _warn(found: Sequence[str], what: str) -> None:
    if found:
        print(f"{_NAME}: warning: {len(found)} {what}, first {found[0]}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--aishell", type=Path, required=True, help="folder with data_aishell/")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--set_names", nargs=3, default=SETS, metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--fs", default="16000", help="sampling rate of the corpus, e.g. 16k")
    parser.add_argument("--expect", default="none", help=corpus_counts.HELP + " (%(default)s)")
    options = parser.parse_args(arguments)
    prepare(
        options.aishell,
        options.data_dir,
        options.set_names,
        parse_rate(options.fs),
        corpus_counts.read_expectation(options.expect),
    )


if __name__ == "__main__":
    run(main)
