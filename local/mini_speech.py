"""Speech of the miniature corpus: recorded syllables joined to sentences, speakers made by rate.

Shapes: a waveform is a float32 array ``(samples,)`` within [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from command_line import UserError
from numpy.typing import NDArray
from scipy import signal

Waveform = NDArray[np.float32]

SAMPLE_RATE = 16000
RECORDING_RATE = 44100
VOICES = ("3", "5")
CROSS_FADE_S = 0.015

# The quietest consonants (ㄈ, ㄙ) start some 40 dB below the vowel of their syllable.
_TRIM_DB = -42.0
_FRAME = RECORDING_RATE // 200
_SYLLABLE_RMS = 0.1
# ㄏㄡ4 of voice 5 holds only the hiss before the syllable, 0.15 % of full scale, where a syllable
# reaches 15 % and more; at equal level it would be loud noise with a transcript.
_SILENT_RMS = 0.01
_EDGE_SILENCE_S = (0.08, 0.16)
SNR_DB = (35.0, 45.0)
_UTTERANCE_GAIN_DB = 1.5
_PEAK = 0.95


@dataclass(frozen=True)
class Speaker:
    """One speaker of the corpus.

    Attributes:
        name: AISHELL's form, e.g. ``S0002``.
        voice: recorded voice, an element of VOICES.
        rate_percent: speed and pitch, in percent of the recorded ones.
        level_db: root mean square of the speech in dB of full scale.
    """

    name: str
    voice: str
    rate_percent: int
    level_db: float


def with_background(
    speech: Waveform,
    level_db: float,
    seed: tuple[int, ...],
    snr_db: tuple[float, float] = SNR_DB,
) -> Waveform:
    """Return speech at SAMPLE_RATE as if recorded: at a level, with silence and noise.

    ``seed`` decides the silence at the edges (80 to 160 ms each), the gain (within 1.5 dB of
    ``level_db``, the root mean square in dB of full scale) and how far the white background noise
    is below the speech (within ``snr_db``).
    """
    rng = np.random.default_rng(seed)
    level_db += rng.uniform(-_UTTERANCE_GAIN_DB, _UTTERANCE_GAIN_DB)
    level = 10 ** (level_db / 20)
    before, after = (int(s * SAMPLE_RATE) for s in rng.uniform(*_EDGE_SILENCE_S, size=2))
    waveform = np.pad(speech * (level / _rms(speech)), (before, after))
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    lowest, highest = snr_db
    waveform += noise * level * 10 ** (rng.uniform(-highest, -lowest) / 20)
    peak = float(np.abs(waveform).max())
    return (waveform * min(1.0, _PEAK / peak)).astype(np.float32)


def find_recordings(directory: Path) -> Path:
    """Return the folder of syllables in an unpacked package, /usr/share/gcin-voice or ogg/ itself.

    Raises:
        UserError: there is none below ``directory``.
    """
    for inner in ("usr/share/gcin-voice/ogg", "share/gcin-voice/ogg", "ogg", "."):
        candidate = directory / inner
        if candidate.is_dir() and any(candidate.glob("*/[35].ogg")):
            return candidate
    raise UserError(
        f"{directory}: no recordings of gcin-voice (usr/share/gcin-voice/ogg/*/3.ogg) there"
    )


def recorded_syllable(recordings: Path, syllable: str) -> str:
    """Return ``syllable`` or, for a neutral tone without recordings, a toned one to use instead.

    The same one for all voices, so that a character sounds alike in all of them.

    Raises:
        UserError: a voice lacks the syllable.
    """
    candidates = [syllable]
    if syllable.endswith("1"):
        candidates += [syllable[:-1] + tone for tone in ("", "2", "3", "4")]
    for candidate in candidates:
        if all((recordings / candidate / f"{voice}.ogg").exists() for voice in VOICES):
            return candidate
    missing = next(v for v in VOICES if not (recordings / syllable / f"{v}.ogg").exists())
    raise UserError(
        f"{recordings / syllable / missing}.ogg: no such recording; is the package complete?"
    )


def read_recording(path: Path) -> Waveform:
    """Read one syllable at RECORDING_RATE, without offset, rumble and silent edges, at equal level.

    Raises:
        UserError: unreadable, of another sampling rate, not mono, or silent.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: unreadable recording; fetch the package anew") from error
    if rate != RECORDING_RATE or samples.ndim != 1:
        raise UserError(f"{path}: expected one channel at {RECORDING_RATE} Hz")
    frames = len(samples) // _FRAME
    if frames < 4:
        raise UserError(f"{path}: empty recording ({len(samples)} samples)")
    # Voice 3 has an offset of 3 % of full scale, which would click at every joint.
    samples = signal.sosfiltfilt(_high_pass(), samples)
    energy = np.square(samples[: frames * _FRAME]).reshape(frames, _FRAME).mean(axis=1)
    if energy.max() < _SILENT_RMS**2:
        raise UserError(f"{path}: silent recording")
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (_TRIM_DB / 10))
    samples = samples[max(loud[0] - 1, 0) * _FRAME : (loud[-1] + 2) * _FRAME]
    return (samples * (_SYLLABLE_RMS / _rms(samples))).astype(np.float32)


@lru_cache
def _high_pass() -> NDArray[np.float64]:
    return signal.butter(4, 60.0, "highpass", fs=RECORDING_RATE, output="sos")


def _rms(samples: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


class Synthesizer:
    """Says sentences with the recordings below ``recordings``; each file is read once.

    Args:
        recordings: folder of syllables (:func:`find_recordings`).
        snr_db: lowest and highest level of the speech above its white background noise, in dB.
    """

    def __init__(self, recordings: Path, snr_db: tuple[float, float] = SNR_DB) -> None:
        self._recordings = recordings
        self._snr_db = snr_db
        self._read: dict[tuple[str, str], Waveform] = {}
        self._said: dict[tuple[str, int, str], Waveform] = {}

    def say(self, syllables: list[str], speaker: Speaker, seed: tuple[int, ...]) -> Waveform:
        """Return one utterance at SAMPLE_RATE.

        The syllables overlap by CROSS_FADE_S with equal power; ``seed`` is that of
        :func:`with_background`.

        Raises:
            UserError: see :func:`read_recording` and :func:`recorded_syllable`.
        """
        fade = int(CROSS_FADE_S * SAMPLE_RATE)
        rise = np.sin(np.linspace(0, math.pi / 2, fade, dtype=np.float32))
        pieces = [self._syllable(name, speaker) for name in syllables]
        speech = np.zeros(sum(map(len, pieces)) - fade * (len(pieces) - 1), dtype=np.float32)
        start = 0
        for piece in pieces:
            piece = piece.copy()
            piece[:fade] *= rise
            piece[-fade:] *= rise[::-1]
            speech[start : start + len(piece)] += piece
            start += len(piece) - fade
        return with_background(speech, speaker.level_db, seed, self._snr_db)

    def _syllable(self, name: str, speaker: Speaker) -> Waveform:
        key = (speaker.voice, speaker.rate_percent, name)
        if key not in self._said:
            recording = self._recording(speaker.voice, name)
            # Played faster by the rate: higher in pitch as well, hence another speaker.
            played_rate = RECORDING_RATE * speaker.rate_percent / 100
            self._said[key] = soxr.resample(recording, played_rate, SAMPLE_RATE)
        return self._said[key]

    def _recording(self, voice: str, name: str) -> Waveform:
        if (voice, name) not in self._read:
            folder = self._recordings / recorded_syllable(self._recordings, name)
            self._read[voice, name] = read_recording(folder / f"{voice}.ogg")
        return self._read[voice, name]
