"""Progress bars that stay readable in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm with utterances as its unit; where stderr is no terminal, at most a line in 30 s."""
    seconds = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(items, unit="utt", mininterval=seconds, maxinterval=seconds, **options)
