"""Read sclite's summaries and lay them out as ESPnet's RESULTS.md does."""

import re
from dataclasses import dataclass
from pathlib import Path

from command_line import UserError

HEADER = "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n|---|---|---|---|---|---|---|---|---|\n"
TITLES = {"wer": "WER", "cer": "CER", "ter": "TER"}


class ResultsError(UserError):
    """A result file without sclite's summary."""


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


def read_summary(result: Path) -> Summary:
    """Read the first `Sum/Avg` line, the one in per cent.

    Raises:
        ResultsError: there is none.
    """
    if result.is_file():
        for line in result.read_text(encoding="utf-8", errors="replace").splitlines():
            if "Sum/Avg" in line:
                numbers = re.findall(r"-?\d+(?:\.\d+)?", line.partition("Sum/Avg")[2])
                if len(numbers) >= 8:
                    return Summary(int(numbers[0]), int(numbers[1]), tuple(numbers[2:8]))
    raise ResultsError(f"{result}: no summary of sclite; score again with --stage 13")


def result_files(experiment: Path, model: str, score: str) -> dict[str, Path]:
    """result.txt files of an experiment by `<decode tag>/<set>`.

    Those older than the model are left out: they belong to an earlier training.
    """
    trained = (experiment / model).stat().st_mtime_ns
    return {
        str(file.parent.parent.relative_to(experiment)): file
        for file in sorted(experiment.glob(f"**/score_{score}/result.txt"))
        if file.stat().st_mtime_ns >= trained
    }


def markdown_row(dataset: str, summary: Summary) -> str:
    """One row under HEADER."""
    cells = [dataset, summary.sentences, summary.words, *summary.rates]
    return f"|{'|'.join(map(str, cells))}|\n"


def markdown_tables(experiments: dict[str, tuple[Path, str]], level: str = "###") -> str:
    """WER, CER and TER tables of (experiment, model); rows are named `<key>/<decode tag>/<set>`."""
    text = ""
    for score, title in TITLES.items():
        rows = [
            markdown_row("/".join(filter(None, (name, dataset))), read_summary(file))
            for name, (experiment, model) in experiments.items()
            for dataset, file in result_files(experiment, model, score).items()
        ]
        if rows:
            text += f"{level} {title}\n\n{HEADER}{''.join(rows)}\n"
    return text
