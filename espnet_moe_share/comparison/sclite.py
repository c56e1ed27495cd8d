"""Read what sclite says: summaries, counts, and the errors of each utterance."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_moe_share.errors import ConfigurationError

SCORES = {"wer": "WER", "cer": "CER", "ter": "TER"}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Summary:
    """sclite's `Sum/Avg` line: counts, then percentages as printed."""

    sentences: int
    words: int
    rates: tuple[str, ...]  # Corr Sub Del Ins Err S.Err

    @property
    def error(self) -> str:
        """Error rate in per cent, as sclite prints it."""
        return self.rates[4]


@dataclass(frozen=True)
class Errors:
    """Numbers of tokens: of one utterance, or of a whole set.

    Attributes:
        correct, substitutions, deletions, insertions: sclite's alignment.
    """

    correct: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def tokens(self) -> int:
        """Tokens of the reference."""
        return self.correct + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in per cent of the reference's tokens; NaN without any."""
        return 100 * self.errors / self.tokens if self.tokens else float("nan")


def _read(result: Path) -> list[str]:
    if not result.is_file():
        raise ConfigurationError(f"{result}: no such file; score again with --stage 13")
    return result.read_text(encoding="utf-8", errors="replace").splitlines()


def read_summary(result: Path) -> Summary:
    """Read the first `Sum/Avg` line, the one in per cent.

    Raises:
        ConfigurationError: There is none.
    """
    for line in _read(result):
        if "Sum/Avg" in line:
            numbers = _NUMBER.findall(line.partition("Sum/Avg")[2])
            if len(numbers) >= 8:
                return Summary(int(numbers[0]), int(numbers[1]), tuple(numbers[2:8]))
    raise ConfigurationError(f"{result}: no summary of sclite; score again with --stage 13")


def read_errors(result: Path) -> dict[str, Errors]:
    """Read the errors of each utterance from the alignments, which `sclite -o all` prints.

    Returns:
        sclite's id, ``(speaker-utterance)`` without the brackets -> the utterance's errors.

    Raises:
        ConfigurationError: There are none, or not those of the summary.
    """
    errors: dict[str, Errors] = {}
    utterance = ""
    for line in _read(result):
        if line.startswith("id: ("):
            utterance = line.removeprefix("id: (").rstrip().removesuffix(")")
        elif line.startswith("Scores: (#C #S #D #I)"):
            if utterance in errors:
                raise ConfigurationError(f"{result}: {utterance} occurs twice")
            correct, substitutions, deletions, insertions = map(int, line.split()[-4:])
            errors[utterance] = Errors(correct, substitutions, deletions, insertions)
    summary = read_summary(result)
    found = (len(errors), total(errors).tokens)
    if found != (summary.sentences, summary.words):
        raise ConfigurationError(
            f"{result}: alignments of {found[0]} utterances with {found[1]} tokens, but a summary "
            f"of {summary.sentences} with {summary.words}; sclite's option -o all is needed"
        )
    return errors


def total(errors: Mapping[str, Errors]) -> Errors:
    """Add up the utterances of a set."""
    values = list(errors.values())
    return Errors(
        sum(value.correct for value in values),
        sum(value.substitutions for value in values),
        sum(value.deletions for value in values),
        sum(value.insertions for value in values),
    )


def result_files(experiment: Path, model: str, score: str) -> dict[str, Path]:
    """result.txt files of an experiment by `<decode tag>/<set>`.

    Those older than the model are left out: they belong to an earlier training.

    Args:
        experiment: exp/asr_<tag>.
        model: File name of the model in it.
        score: ``cer``, ``wer`` or ``ter``.
    """
    trained = (experiment / model).stat().st_mtime_ns
    return {
        str(file.parent.parent.relative_to(experiment)): file
        for file in sorted(experiment.glob(f"**/score_{score}/result.txt"))
        if file.stat().st_mtime_ns >= trained
    }
