"""Files that are there as a whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name to write to of a file that is there only once the block ends without an error.

    The name is in the same directory, which is made if need be: only there is renaming one step.

    Raises:
        OSError: The directory or the file cannot be written.
    """
    with _temporary(path) as temporary:
        yield temporary
        temporary.replace(path)


def check_writable(path: Path) -> None:
    """Find out before the work, not after it, whether :func:`whole_file` can write a file.

    Raises:
        OSError: It cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _temporary(path) as temporary:
        temporary.touch()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        yield temporary
    except OSError as error:
        # A full disk does not say which file it could not take.
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
