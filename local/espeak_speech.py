"""Mandarin speech by eSpeak NG: many speakers, made of its voice variants, rates and pitches.

Its voice `cmn` misreads most Chinese characters, so it is given pinyin, for which it has the voice
`cmn-latn-pinyin`. Shapes: a waveform is a float32 array ``(samples,)`` within [-1, 1].
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import numpy as np
import soxr
from command_line import UserError
from mini_speech import SAMPLE_RATE, Waveform, with_background

VOICE = "cmn-latn-pinyin"
# So low that no variant is clipped; the program's default is 100.
_AMPLITUDE = "20"
_TIMEOUT_S = 60
_WAV_HEADER = 44
# Not like a person's speech (whispered without pitch, robots, announcements), or the same as the
# plain voice or as caleb.
_LEFT_OUT = re.compile(
    r"whisperf?|croak|Demonic|announcer|anikaRobot|robosoft\d?|UniRobot|fast|klatt|klatt6"
)


@dataclass(frozen=True)
class Speaker:
    """One speaker of the corpus.

    Attributes:
        name: AISHELL's form, e.g. ``S0002``.
        variant: of the voice, an element of `Espeak.variants`.
        rate: words per minute, as the program counts them.
        pitch: 0 to 99.
        level_db: root mean square of the speech in dB of full scale.
    """

    name: str
    variant: str
    rate: int
    pitch: int
    level_db: float


class Espeak:
    """The program.

    Args:
        program: its name or path.

    Attributes:
        version: what it calls itself.
        variants: its variants that sound like different people, sorted.

    Raises:
        UserError: there is no such program, it does not run, or has no such voice.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.version, _, _ = self._ask("--version").partition("  Data at")
        if not self.version.startswith("eSpeak NG"):
            said = self.version.partition("\n")[0]
            raise UserError(f"{program}: eSpeak NG is needed, not '{said}'")
        if VOICE not in self._ask("--voices=cmn").split():
            raise UserError(f"{program}: {self.version} has no voice {VOICE}; a newer one has it")
        # The file's name, which may have spaces, and for some variants languages in parentheses.
        listed = self._ask("--voices=variant")
        names = re.findall(r" !v/(\S.*?)\s*(?:\(.*)?$", listed, re.MULTILINE)
        self.variants = sorted({name for name in names if not _LEFT_OUT.fullmatch(name)})
        if not self.variants:
            raise UserError(f"{program}: {self.version} lists no voice variants")

    def say(self, syllables: list[str], speaker: Speaker, seed: tuple[int, ...]) -> Waveform:
        """Return one utterance at SAMPLE_RATE; ``seed`` is that of `with_background`.

        Args:
            syllables: pinyin with the tone's number, as mini_sentences.pinyin gives it.
            speaker: who says it.
            seed: of the background.

        Raises:
            UserError: the program fails or says nothing.
        """
        # A list, not a shell's line, and the text as input: variants have spaces in their names.
        voice = f"{VOICE}+{speaker.variant}"
        wav = self._run(
            *("-v", voice, "-s", str(speaker.rate), "-p", str(speaker.pitch)),
            *("-a", _AMPLITUDE, "--stdout"),
            text=" ".join(syllables),
        )
        if wav[:4] != b"RIFF" or wav[36:40] != b"data" or not any(wav[_WAV_HEADER:]):
            raise UserError(f"{self.program} -v {voice}: no speech for '{' '.join(syllables)}'")
        rate = int.from_bytes(wav[24:28], "little")
        # The header's length is a placeholder, since the program does not know it beforehand.
        samples = np.frombuffer(wav[_WAV_HEADER:], dtype="<i2").astype(np.float32)
        speech = soxr.resample(_without_silence(samples / np.float32(32768)), rate, SAMPLE_RATE)
        return with_background(speech, speaker.level_db, seed)

    def _ask(self, option: str) -> str:
        return self._run(option).decode("utf-8", errors="replace")

    def _run(self, *arguments: str, text: str = "") -> bytes:
        try:
            done = subprocess.run(
                [self.program, *arguments],
                input=text.encode(),
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise UserError(
                f"{self.program}: {error.strerror}; 'apt-get install espeak-ng' installs it"
            ) from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.program}: no answer after {_TIMEOUT_S} s") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", errors="replace").strip() or "no message"
            raise UserError(f"{self.program}: exit status {done.returncode}: {said}")
        return done.stdout


def _without_silence(samples: Waveform) -> Waveform:
    """The program ends every text with a pause, which would be a fifth of a short utterance."""
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples
