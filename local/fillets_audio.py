"""The recordings of Fish Fillets NG as 16 kHz wav files."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from fillets_split import Utterance
from fillets_text import DroppedLine

SAMPLE_RATE = 16000


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
