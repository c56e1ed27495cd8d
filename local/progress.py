"""Progress bars that stay readable in a log file."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm, of utterances by default; where stderr is no terminal, at most a line in 30 s."""
    seconds = 0.5 if sys.stderr.isatty() else 30.0
    options = {"unit": "utt", "mininterval": seconds, "maxinterval": seconds, **options}
    return tqdm(items, **options)


class GrowingFiles:
    """Counts a mark in files that other programs are writing.

    Args:
        files: they may not exist yet.
        mark: what stands once for each thing done; counted in complete lines only.
    """

    def __init__(self, files: list[Path], mark: str) -> None:
        self.positions = dict.fromkeys(files, 0)
        self.mark = mark.encode()

    def added(self) -> int:
        """How many marks have come since the last call."""
        count = 0
        for file, position in self.positions.items():
            if not file.exists():
                continue
            with open(file, "rb") as stream:
                stream.seek(position)
                text = stream.read()
            end = text.rfind(b"\n") + 1
            self.positions[file] = position + end
            count += text[:end].count(self.mark)
        return count
