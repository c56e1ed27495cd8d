#!/usr/bin/env python3
"""Build a corpus of any size in AISHELL-1's own layout, read by eSpeak NG.

Writes below `--out`:

    data_aishell/wav/{train,dev,test}/S*/BAC009S*W*.wav      16 kHz, 16 bit, one channel
    data_aishell/transcript/aishell_transcript_v0.8.txt     <utterance id> <word> <word> ...
    data_aishell/README.txt                                 how it was made
    data_aishell/counts.txt                                 for prepare_aishell.py --expect

It stands for the real corpus where that is not at hand: to try a recipe, a machine, a cluster. The
speech is synthetic, so error rates on it say nothing about speech recognition in general. Speakers
are variants of one voice with a rate and a pitch of their own; no variant is in two sets. As in
AISHELL-1, some recordings have no transcript. The same options and the same version of eSpeak NG
give the same corpus; a second call with them does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import corpus_counts
import mini_sentences
import phrase_sentences
import soundfile
from command_line import UserError, run, written_whole
from data_directory import DataDirectory, is_current, whole_directory
from espeak_speech import VOICE, Espeak, Speaker
from mini_sentences import Sentence, pinyin
from mini_speech import SAMPLE_RATE
from progress import progress_bar

CORPUS = "data_aishell"
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"
SETS = ("train", "dev", "test")
VOCABULARIES = {
    "small": mini_sentences.draw_sentences,
    "large": phrase_sentences.draw_sentences,
}
# Numbers of speakers begin as in AISHELL-1, which bounds how many there can be.
_FIRST_SPEAKER = {"train": 2, "dev": 724, "test": 764}
_MOST_SPEAKERS = {"train": 722, "dev": 40, "test": 236}
_MOST_UTTERANCES = 9999
_RATE = (130, 200)
_PITCH = (25, 75)
_LEVEL_DB = (-30.0, -20.0)
# Of the variants; training has those that are left.
_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Size:
    """What decides a corpus.

    Attributes:
        sentences: number of utterances with transcript of each set.
        speakers: number of speakers of each set.
        untranscribed: recordings of training speakers without transcript.
        vocabulary: a key of VOCABULARIES.
        seed: 0 or more.
    """

    sentences: Mapping[str, int]
    speakers: Mapping[str, int]
    untranscribed: int = 3
    vocabulary: str = "small"
    seed: int = 0


@dataclass(frozen=True)
class _Utterance:
    path: Path
    words: Sentence
    speaker: Speaker
    seed: tuple[int, ...]
    transcribed: bool


def make_speakers(
    variants: list[str], speakers: Mapping[str, int], seed: int
) -> dict[str, list[Speaker]]:
    """Return the speakers of each set.

    No two speakers are alike in variant, rate and pitch, and no variant is in two sets.

    Raises:
        UserError: more or fewer speakers than there can be.
    """
    for name, number in speakers.items():
        if not 1 <= number <= _MOST_SPEAKERS[name]:
            raise UserError(f"--{name}_speakers {number}: 1 to {_MOST_SPEAKERS[name]} are possible")
    rng = random.Random(f"speakers {seed}")
    left = rng.sample(variants, len(variants))
    held_out = max(1, round(_HELD_OUT_SHARE * len(variants)))
    own = {"dev": left[:held_out], "test": left[held_out : 2 * held_out]}
    own["train"] = left[2 * held_out :]
    sets: dict[str, list[Speaker]] = {}
    for name in SETS:
        taken: set[tuple[str, int, int]] = set()
        sets[name] = []
        while len(sets[name]) < speakers[name]:
            number = len(sets[name])
            variant = own[name][number % len(own[name])]
            rate, pitch = rng.randint(*_RATE), rng.randint(*_PITCH)
            if (variant, rate, pitch) in taken:
                continue
            taken.add((variant, rate, pitch))
            speaker = f"S{_FIRST_SPEAKER[name] + number:04d}"
            sets[name].append(Speaker(speaker, variant, rate, pitch, rng.uniform(*_LEVEL_DB)))
    return sets


def build_corpus(espeak: Espeak, out: Path, size: Size, jobs: int) -> bool:
    """Build `out / CORPUS` unless it is there, built from the same.

    The corpus appears under its name when complete; another one under that name is then replaced.

    Args:
        espeak: the program.
        out: directory to build in.
        size: what to build.
        jobs: programs that run at once.

    Returns:
        Whether it was built.

    Raises:
        UserError: numbers that cannot be had, or the program fails.
        OSError: `out` cannot be written.
    """
    for name, number in size.sentences.items():
        if number < size.speakers[name]:
            raise UserError(
                f"--{name}_sentences {number}: at least one for each of the"
                f" {size.speakers[name]} speakers is needed"
            )
    if size.seed < 0 or size.untranscribed < 0:
        raise UserError("--seed and --untranscribed: 0 or more is needed")
    corpus = out / CORPUS
    made_from: dict[str, object] = {
        "sentences": dict(size.sentences),
        "speakers": dict(size.speakers),
        "untranscribed": size.untranscribed,
        "vocabulary": size.vocabulary,
        "seed": size.seed,
        "espeak": espeak.version,
        "program": _program_digest(),
    }
    if is_current(corpus, made_from):
        return False
    speakers = make_speakers(espeak.variants, size.speakers, size.seed)
    train, dev, test = (size.sentences[name] for name in SETS)
    sentences = VOCABULARIES[size.vocabulary](train, dev, test, size.seed)
    with whole_directory(corpus, made_from) as root:
        utterances = {n: _plan(root, n, sentences[n], speakers[n], size) for n in SETS}
        _write_wavs(espeak, [u for name in SETS for u in utterances[name]], jobs)
        _write_texts(root, utterances, speakers, espeak)
    return True


def _plan(
    root: Path, name: str, sentences: list[Sentence], speakers: list[Speaker], size: Size
) -> list[_Utterance]:
    """Who says what in which file; the speakers of a set take turns."""
    said = list(sentences)
    if name == "train":
        # What a recording without transcript says does not matter: sentences said once more.
        said += [sentences[i % len(sentences)] for i in range(size.untranscribed)]
    if len(said) > _MOST_UTTERANCES * len(speakers):
        raise UserError(
            f"--{name}_sentences {len(sentences)}: {_MOST_UTTERANCES} for each of {len(speakers)}"
            f" speakers at most; give more --{name}_speakers"
        )
    utterances = []
    for index, words in enumerate(said):
        turn, place = divmod(index, len(speakers))
        speaker = speakers[place]
        folder = root / "wav" / name / speaker.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"BAC009{speaker.name}W{turn + 1:04d}.wav"
        seed = (size.seed, SETS.index(name), index)
        utterances.append(_Utterance(path, words, speaker, seed, index < len(sentences)))
    return utterances


def _write_wavs(espeak: Espeak, utterances: list[_Utterance], jobs: int) -> None:
    def write(utterance: _Utterance) -> None:
        waveform = espeak.say(pinyin(utterance.words), utterance.speaker, utterance.seed)
        audio = io.BytesIO()
        soundfile.write(audio, waveform, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        # libsndfile reports a full disk as "System error.", Python as what it is.
        utterance.path.write_bytes(audio.getvalue())

    # Threads are enough: the work is done by the programs that they wait for.
    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in progress_bar(pool.map(write, utterances), total=len(utterances), desc="eSpeak NG"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _write_texts(
    root: Path,
    utterances: Mapping[str, list[_Utterance]],
    speakers: Mapping[str, list[Speaker]],
    espeak: Espeak,
) -> None:
    transcribed = {name: [u for u in utterances[name] if u.transcribed] for name in SETS}
    lines = [f"{u.path.stem} {' '.join(u.words)}\n" for n in SETS for u in transcribed[n]]
    with written_whole(root / TRANSCRIPT) as stream:
        stream.writelines(sorted(lines))
    sets = {
        name: DataDirectory(texts={u.path.stem: "".join(u.words) for u in transcribed[name]})
        for name in SETS
    }
    wavs = sum(map(len, utterances.values()))
    corpus_counts.write_expectation(root / "counts.txt", corpus_counts.count(wavs, sets))
    with written_whole(root / "README.txt") as stream:
        stream.write(
            "A corpus in AISHELL-1's layout, built by espeak_aishell.py.\n"
            "None of AISHELL-1's own data is in it.\n\n"
            f"Read by {espeak.version} (https://github.com/espeak-ng/espeak-ng),\n"
            f"voice {VOICE}.\n"
            "\nSpeakers, with their variant of the voice, words per minute, pitch and level:\n\n"
        )
        stream.writelines(
            f"{s.name}  {name:5s}  {s.variant:12s}  {s.rate}  {s.pitch}  {s.level_db:.1f} dBFS\n"
            for name in SETS
            for s in speakers[name]
        )


def _program_digest() -> str:
    """Digest of the programs that build the corpus, so that a changed one builds it anew."""
    folder = Path(__file__).parent
    own = ("espeak_aishell.py", "espeak_speech.py", "phrase_sentences.py")
    names = (*own, "mini_sentences.py", "mini_speech.py")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="data_aishell is built in here")
    parser.add_argument("--espeak_ng", default="espeak-ng", help="the program (%(default)s)")
    for name, sentences, speakers in (("train", 640, 24), ("dev", 100, 4), ("test", 150, 6)):
        parser.add_argument(f"--{name}_sentences", type=int, default=sentences)
        parser.add_argument(f"--{name}_speakers", type=int, default=speakers)
    parser.add_argument(
        "--untranscribed", type=int, default=3, help="recordings without transcript (%(default)s)"
    )
    parser.add_argument(
        "--vocabulary",
        choices=[*VOCABULARIES],
        default="small",
        help="small: sentences with a hundred characters; large: words with 4,800 (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="programs at once")
    options = parser.parse_args(arguments)
    size = Size(
        sentences={name: getattr(options, f"{name}_sentences") for name in SETS},
        speakers={name: getattr(options, f"{name}_speakers") for name in SETS},
        untranscribed=options.untranscribed,
        vocabulary=options.vocabulary,
        seed=options.seed,
    )
    espeak = Espeak(options.espeak_ng)
    built = build_corpus(espeak, options.out, size, max(1, options.nj))
    print(f"espeak_aishell.py: {options.out / CORPUS}: {'built' if built else 'already there'}")


if __name__ == "__main__":
    run(main)
