"""A Kaldi-style data directory: recordings, texts, and what is said of its utterances."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_moe_share.errors import ConfigurationError

# Kaldi's and ESPnet's: a number for each utterance, or a name; no label that utterances share.
_NO_LABELS = ("utt2num_samples", "utt2num_frames", "utt2dur", "utt2uniq")


@dataclass(frozen=True)
class DataDirectory:
    """What is known of a set's utterances.

    Attributes:
        recordings: Utterance -> audio file, from ``wav.scp``.
        texts: Utterance -> reference, from ``text``; {} without that file.
        labels: Name of a ``utt2*`` file (``utt2spk``) -> utterance -> label.
    """

    recordings: dict[str, Path]
    texts: dict[str, str]
    labels: dict[str, dict[str, str]]


def read_data_directory(path: Path) -> DataDirectory:
    """Read ``wav.scp`` and, as far as they are there, ``text`` and all ``utt2*`` files of labels.

    Raises:
        ConfigurationError: No such directory, a file that cannot be read, an utterance without a
            text or a label, or with two.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path}: no such data directory; one with a wav.scp is needed")
    recordings = read_wav_scp(path / "wav.scp")
    texts = read_column(path / "text", recordings) if (path / "text").is_file() else {}
    labels = {
        file.name: read_column(file, recordings)
        for file in sorted(path.glob("utt2*"))
        if file.is_file() and file.name not in _NO_LABELS
    }
    for name, column in labels.items():
        for utterance, label in column.items():
            if not label:
                raise ConfigurationError(f"{path / name}: {utterance} has no label; add it")
    return DataDirectory(recordings, texts, labels)


def read_wav_scp(path: Path) -> dict[str, Path]:
    """Read ``<utterance id> <audio file>`` lines.

    Raises:
        ConfigurationError: No such file, no line in it, an id twice, or a line that is a pipe or
            has no file.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; a wav.scp is needed")
    recordings: dict[str, Path] = {}
    for number, (name, file) in _read_columns(path).items():
        if not file or file.endswith("|"):
            raise ConfigurationError(f"{path}:{number}: '<utterance id> <audio file>' is needed")
        recordings[name] = Path(file)
    if not recordings:
        raise ConfigurationError(f"{path}: no recordings in it")
    return recordings


def read_column(path: Path, utterances: dict[str, Path]) -> dict[str, str]:
    """Read ``<utterance id> <value>`` lines of the given utterances.

    Raises:
        ConfigurationError: An utterance is not in the file, or twice.
    """
    values = dict(_read_columns(path).values())
    for utterance in utterances:
        if utterance not in values:
            raise ConfigurationError(
                f"{path}: nothing of {utterance}, which is in wav.scp; add it, or remove the file"
            )
    return {utterance: values[utterance] for utterance in utterances}


def _read_columns(path: Path) -> dict[int, tuple[str, str]]:
    """Number of the line, from 1 -> first column, and the rest, which may be empty."""
    try:
        # splitlines() would end a line at characters that a text may hold, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}") from None
    columns: dict[int, tuple[str, str]] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            # Kaldi's tools part columns by tabs, too.
            name, *rest = line.strip().split(maxsplit=1)
            if first.setdefault(name, number) != number:
                raise ConfigurationError(f"{path}:{number}: {name} is in line {first[name]}, too")
            columns[number] = (name, rest[0] if rest else "")
    return columns


def read_speech(utterance: str, file: Path, sampling_rate: int) -> np.ndarray:
    """Read one recording.

    Returns:
        Samples (N,) between -1 and 1, float32.

    Raises:
        ConfigurationError: It cannot be read, has several channels or another rate.
    """
    try:
        samples, rate = soundfile.read(file, dtype="float32")
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{file} of {utterance}: unreadable audio ({error})") from error
    if samples.ndim != 1:
        raise ConfigurationError(
            f"{file} of {utterance}: {samples.shape[1]} channels; one is needed"
        )
    if rate != sampling_rate:
        raise ConfigurationError(
            f"{file} of {utterance}: {rate} Hz, but the model was trained on {sampling_rate} Hz"
        )
    return samples
