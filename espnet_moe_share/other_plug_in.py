"""What to install when a model needs classes or settings that are not here.

ESPnet then raises errors for programmers: the list of its choices, or a constructor's argument.
Importing this is light.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from traceback import walk_tb

from espnet_moe_share import __version__
from espnet_moe_share.errors import ConfigurationError

# Of ClassChoices.get_class, and of Python
_CHOICE = re.compile(r"--(\w+) must be one of \(.*\): --\w+ (.+)", re.DOTALL)
_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def explanation(error: Exception) -> str | None:
    """Say in one line which plug-in, or which release of ours, is missing; None: another error."""
    installed = f"ESPnet {version('espnet')} and espnet_moe_share {__version__}"
    choice = _CHOICE.fullmatch(str(error))
    if choice:
        return (
            f"{installed} have no {choice[1]} '{choice[2]}'; mend the name, or install (pip "
            "install) the plug-in that the model was made with, such as a later espnet_moe_share"
        )
    argument = _ARGUMENT.fullmatch(str(error))
    # Only there do a configuration's settings become arguments; elsewhere it is a bug.
    if argument and any(
        frame.f_code.co_name == "build_model" for frame, _ in walk_tb(error.__traceback__)
    ):
        return (
            f"{argument[1]} has no setting '{argument[2]}' in {installed}; mend it, or install "
            "(pip install) the releases that the model was made with"
        )
    return None


@contextmanager
def other_plug_in_errors() -> Iterator[None]:
    """Raise ConfigurationError for those of ESPnet's errors that :func:`explanation` explains."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = explanation(error)
        if text is None:
            raise
        raise ConfigurationError(text) from error
