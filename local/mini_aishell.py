#!/usr/bin/env python3
"""Build a miniature of AISHELL-1, in AISHELL-1's own layout, from recorded Mandarin syllables.

Writes below ``--out``::

    data_aishell/wav/{train,dev,test}/S*/BAC009S*W*.wav      16 kHz, 16 bit, one channel
    data_aishell/transcript/aishell_transcript_v0.8.txt     <utterance id> <word> <word> ...
    data_aishell/README.txt                                 what it is, and the licences

The recordings are those of Debian's package gcin-voice: two human voices, some 1200 toned
syllables each, ``usr/share/gcin-voice/ogg/<zhuyin><tone>/{3,5}.ogg``. Sentences of a small grammar
(mini_sentences.py) are read by pypinyin, and their syllables joined (mini_speech.py). Speakers
differ by rate, which moves the pitch as well, and by level; both voices are in every set, and no
rate of one set is in another. No sentence of dev or test is in train; the recorded syllables are
the same in all sets, so this is a test of a recipe and no measure of speech recognition in general.

Licences of the recordings (gcin-voice's debian/copyright):

* ``3.ogg``: copyright 2014 Edward Der-Hua Liu; GPL-3 or LGPL-3.
* ``5.ogg``: copyright 聲優　羅竺與徵音梅林開發委員會錄音組 (ChionMeilin with the vocal source from
  Chu Lo); CC-BY-3.0.

The built corpus is adapted from both (trimmed, resampled, joined, noise added) and carries this
notice. The same options give the same corpus; a second call with them does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path

import soundfile
from command_line import UserError, run, written_whole
from data_directory import is_current, whole_directory
from mini_sentences import Sentence, draw_sentences, syllables
from mini_speech import SAMPLE_RATE, SNR_DB, VOICES, Speaker, Synthesizer, find_recordings

CORPUS = "data_aishell"
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"
DEFAULT_SENTENCES = {"train": 640, "dev": 100, "test": 150}

# Percent of the recorded rate, one speaker per voice and rate; held-out rates lie between those of
# the training speakers. First numbers of speakers as in AISHELL-1.
_RATES = {
    "train": (88, 91, 94, 97, 100, 103, 106, 109, 112, 115),
    "dev": (95, 107),
    "test": (92, 101, 110),
}
_FIRST_SPEAKER = {"train": 2, "dev": 724, "test": 764}
_LEVEL_DB = (-30.0, -20.0)

_README = """\
A miniature of the AISHELL-1 corpus's layout, built by mini_aishell.py from recorded syllables.
None of AISHELL-1's own data is in it.

The speech is adapted (trimmed, resampled, joined to sentences, noise added) from the recordings of
the Debian package gcin-voice (http://hyperrate.com/thread.php?tid=30325#30325), licensed thus:

* recordings 3.ogg: Copyright 2014 Edward Der-Hua Liu
  GPL-3 or LGPL-3 (https://www.gnu.org/licenses/gpl-3.0.html,
  https://www.gnu.org/licenses/lgpl-3.0.html)
* recordings 5.ogg: Copyright 聲優　羅竺與徵音梅林開發委員會錄音組
  (ChionMeilin with the vocal source from Chu Lo)
  CC-BY-3.0 (https://creativecommons.org/licenses/by/3.0/)

Speakers, with the recordings they are made from, their rate and their level:

"""


def make_speakers(name: str, seed: int) -> list[Speaker]:
    """Return the speakers of the set ``train``, ``dev`` or ``test``; voices alternate."""
    rng = random.Random(f"speakers {name} {seed}")
    return [
        Speaker(f"S{_FIRST_SPEAKER[name] + i:04d}", voice, rate, rng.uniform(*_LEVEL_DB))
        for i, (rate, voice) in enumerate((r, v) for r in _RATES[name] for v in VOICES)
    ]


def build_corpus(
    gcin_voice: Path,
    out: Path,
    sizes: Mapping[str, int],
    seed: int,
    snr_db: tuple[float, float] = SNR_DB,
) -> bool:
    """Build ``out / CORPUS`` unless it is there, built from the same.

    The corpus appears under its name when complete; another one under that name is then replaced.

    Args:
        gcin_voice: the unpacked package.
        out: directory to build in.
        sizes: number of sentences of ``train``, ``dev`` and ``test``.
        seed: 0 or more.
        snr_db: lowest and highest signal-to-noise ratio of an utterance, in dB.

    Returns:
        Whether it was built.

    Raises:
        UserError: numbers that the grammar or the speakers do not allow, or recordings that are
            missing or unreadable.
        OSError: ``out`` cannot be written.
    """
    for name, size in sizes.items():
        if size < len(VOICES):
            raise UserError(f"--{name}_sentences {size}: at least {len(VOICES)} are needed")
    if seed < 0:
        raise UserError(f"--seed {seed}: 0 or more is needed")
    if snr_db[0] > snr_db[1]:
        raise UserError(f"--snr_db {snr_db[0]:g} {snr_db[1]:g}: the lower one comes first")
    corpus = out / CORPUS
    made_from = {
        "gcin_voice": str(gcin_voice.resolve()),
        "sentences": dict(sizes),
        "seed": seed,
        "snr_db": list(snr_db),
        "program": _program_digest(),
    }
    if is_current(corpus, made_from):
        return False
    synthesizer = Synthesizer(find_recordings(gcin_voice), snr_db)
    sets = draw_sentences(sizes["train"], sizes["dev"], sizes["test"], seed)
    with whole_directory(corpus, made_from) as root:
        _write_corpus(root, sets, synthesizer, seed)
    return True


def _write_corpus(
    root: Path, sets: dict[str, list[Sentence]], synthesizer: Synthesizer, seed: int
) -> None:
    lines: list[str] = []
    readme = _README
    for number, (name, sentences) in enumerate(sets.items()):
        speakers = make_speakers(name, seed)[: len(sentences)]
        for speaker in speakers:
            (root / "wav" / name / speaker.name).mkdir(parents=True)
            readme += (
                f"{speaker.name}  {name:5s}  {speaker.voice}.ogg"
                f"  {speaker.rate_percent} %  {speaker.level_db:.1f} dBFS\n"
            )
        for index, words in enumerate(sentences):
            turn, place = divmod(index, len(speakers))
            speaker = speakers[place]
            utterance = f"BAC009{speaker.name}W{turn + 1:04d}"
            waveform = synthesizer.say(syllables(words), speaker, (seed, number, index))
            audio = io.BytesIO()
            soundfile.write(audio, waveform, SAMPLE_RATE, subtype="PCM_16", format="WAV")
            # libsndfile reports a full disk as "System error.", Python as what it is.
            path = root / "wav" / name / speaker.name / f"{utterance}.wav"
            path.write_bytes(audio.getvalue())
            lines.append(f"{utterance} {' '.join(words)}\n")
    with written_whole(root / TRANSCRIPT) as stream:
        stream.writelines(sorted(lines))
    with written_whole(root / "README.txt") as stream:
        stream.write(readme)


def _program_digest() -> str:
    """Digest of the programs that build the corpus, so that a changed one builds it anew."""
    folder = Path(__file__).parent
    names = ("mini_aishell.py", "mini_sentences.py", "mini_speech.py")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Build a miniature of AISHELL-1 from the recorded syllables of gcin-voice."
    )
    parser.add_argument("--gcin_voice", type=Path, required=True, help="unpacked package")
    parser.add_argument("--out", type=Path, required=True, help="data_aishell is built in here")
    for name, size in DEFAULT_SENTENCES.items():
        parser.add_argument(f"--{name}_sentences", type=int, default=size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--snr_db",
        type=float,
        nargs=2,
        default=SNR_DB,
        metavar=("LOWEST", "HIGHEST"),
        help="signal-to-noise ratio of an utterance",
    )
    options = parser.parse_args(arguments)
    sizes = {name: getattr(options, f"{name}_sentences") for name in DEFAULT_SENTENCES}
    built = build_corpus(
        options.gcin_voice, options.out, sizes, options.seed, tuple(options.snr_db)
    )
    print(f"mini_aishell.py: {options.out / CORPUS}: {'built' if built else 'already there'}")


if __name__ == "__main__":
    run(main)
