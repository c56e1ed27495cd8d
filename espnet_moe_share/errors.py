"""Errors that a user can mend: their text says what was found, where, and what would be right."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class ConfigurationError(ValueError):
    """A YAML or command-line setting that cannot work."""


class CheckpointMismatchError(ValueError):
    """A checkpoint whose tensors are not those of the model that the configuration describes.

    Not a RuntimeError: ``AbsTask.build_model_from_file`` catches those and tries again.
    """


@contextmanager
def exit_in_one_line(program: str) -> Iterator[None]:
    """End the program with one line on stderr, and status 1, for an error that a user can mend.

    Files that cannot be read or written are such errors, too.

    Args:
        program: Begins the line.
    """
    try:
        yield
    except (ConfigurationError, CheckpointMismatchError) as error:
        sys.exit(f"{program}: error: {error}")
    except OSError as error:
        sys.exit(f"{program}: error: {error.filename or 'input/output'}: {error.strerror or error}")
