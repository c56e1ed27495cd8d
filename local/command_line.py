"""What every program in this directory does with a user's mistake: one line on stderr, status 1."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO


class UserError(Exception):
    """Wrong input; the message says what was found, where, and what would be right."""


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line that starts with the program's name and exit."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def run(main: Callable[[], None]) -> None:
    """Run `main` and turn wrong input and failing files into one line and status 1."""
    try:
        main()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:
        names = " -> ".join(str(n) for n in (error.filename, error.filename2) if n is not None)
        fail(f"{names or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on", 130)


def parse_rate(text: str) -> int:
    """Sampling rate in Hz from "16000" or ESPnet's short form "16k".

    Raises:
        UserError: it is neither.
    """
    try:
        rate = float(text[:-1]) * 1000 if text.lower().endswith("k") else float(text)
    except ValueError:
        rate = 0.0
    if rate < 1 or rate != int(rate):
        raise UserError(f"--fs {text}: a sampling rate such as 16000 or 16k is needed")
    return int(rate)


def require_files(paths: Iterable[Path], hint: str) -> None:
    """Check that all files are there; the hint says what would make a missing one.

    Raises:
        UserError: one is missing.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; {hint}")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        # mkstemp gives mode 600; a result that colleagues cannot read would surprise.
        os.fchmod(descriptor, 0o666 & ~_umask())
        with open(descriptor, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it could not take
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
