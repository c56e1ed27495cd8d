"""Real-time factor and training time, from the logs that ESPnet's programs leave."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_STAMP = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")
_LENGTH = re.compile(r"INFO: speech length: (\d+)")
_EPOCH = re.compile(r" (\d+)epoch results: (.*)")
_UNITS = {"week": 604800.0, "day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0}
_UNIT = rf"([\d.]+) ({'|'.join(_UNITS)})s?"
# As ESPnet prints it: `1 hour, 2 minutes and 3.5 seconds`; `iter_time` and the like are others.
_TIME = re.compile(rf"\btime=({_UNIT}(?:(?:, | and ){_UNIT})*)")


@dataclass(frozen=True)
class DecodingTime:
    """What decoding took: from an utterance's arrival in memory to its best hypothesis.

    Attributes:
        audio: Seconds of speech.
        wall: Seconds of the clock, added up over utterances, whatever ran beside them.
    """

    audio: float
    wall: float

    @property
    def factor(self) -> float:
        """Real-time factor: seconds that a second of speech takes."""
        return self.wall / self.audio


def decoding_time(decoded: Path, sampling_rate: float) -> DecodingTime | None:
    """Read the logs of ``espnet2.bin.asr_inference``, as ESPnet's own ``calculate_rtf.py`` does.

    Args:
        decoded: <exp>/<decode tag>/<set>, with ``logdir/asr_inference.*.log``.
        sampling_rate: Of the speech, in Hz.

    Returns:
        None where the logs do not say it: none there, or not one ``best hypo`` for each
        ``speech length``.
    """
    samples, wall = 0, 0.0
    for log in sorted((decoded / "logdir").glob("asr_inference.*.log")):
        pending, begin = 0, datetime.min
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if not (stamp := _STAMP.search(line)):
                continue
            if length := _LENGTH.search(line):
                samples += int(length[1])
                # In batch decoding the lengths of a batch come first, then its hypotheses.
                begin = begin if pending else _time(stamp)
                pending += 1
            elif "INFO: best hypo: " in line:
                pending -= 1
                wall += (_time(stamp) - begin).total_seconds() if pending == 0 else 0.0
        if pending:
            return None
    return DecodingTime(samples / sampling_rate, wall) if samples else None


def _time(stamp: re.Match[str]) -> datetime:
    return datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f")


@dataclass(frozen=True)
class TrainingTime:
    """What training took, with validation after every epoch and without the program's start."""

    epochs: int
    seconds: float


def training_time(experiment: Path) -> TrainingTime | None:
    """Read the times of all epochs from ``train*.log``: those before an interruption, too.

    Returns:
        None if no log tells of an epoch. Of an epoch that was trained twice, as after an
        interruption in its midst, the later one counts.
    """
    seconds: dict[int, float] = {}
    logs = sorted(experiment.glob("train*.log"), key=lambda log: log.stat().st_mtime_ns)
    for log in logs:
        for epoch in _EPOCH.finditer(log.read_text(encoding="utf-8", errors="replace")):
            seconds[int(epoch[1])] = sum(epoch_times(epoch[2]))
    return TrainingTime(len(seconds), sum(seconds.values())) if seconds else None


def epoch_times(results: str) -> list[float]:
    """Seconds of training, of validation and of pictures, in the text of `epoch results`."""
    return [
        sum(float(number) * _UNITS[unit] for number, unit in re.findall(_UNIT, found[1]))
        for found in _TIME.finditer(results)
    ]
