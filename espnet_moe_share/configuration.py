"""YAML files of trainings, read as ESPnet's own parser reads them."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.task import ASRTask


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turn whatever ESPnet raises into a ConfigurationError of one line that begins with ``what``.

    Its classes check their settings by assertions, type checks and errors of many types.
    """
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ConfigurationError) else f"{type(error).__name__}: "
        raise ConfigurationError(f"{what}: {kind}{' '.join(str(error).split())}") from error


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ConfigurationError: It is missing, is no YAML, or is no mapping.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file")
    with one_line_errors(f"{path} is no YAML file"):
        # libyaml reads the thousands of tokens of a config.yaml many times faster
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: a mapping of options to values is needed")
    return settings


def read_arguments(path: Path) -> argparse.Namespace:
    """Read the YAML of a training, or the config.yaml of an experiment, as ESPnet's parser does.

    Returns:
        ESPnet's arguments, for ``ASRTask.build_model``. What a recipe gives on the command line,
        such as ``token_list``, is there only if the file has it.

    Raises:
        ConfigurationError: The file cannot be read, or is none of an ASR training.
    """
    settings = load_yaml(path)
    parser = ASRTask.get_parser()
    # An experiment's config.yaml holds its tokens, and also what ESPnet adds while it runs.
    if not isinstance(settings.get("token_list"), list):
        known = {action.dest for action in parser._actions}
        unknown = [str(key) for key in settings if key not in known]
        if unknown:
            raise ConfigurationError(
                f"{path}: '{unknown[0]}' is no option of espnet2.bin.asr_train; "
                "the YAML of an ASR training is needed"
            )
    elif "encoder" not in settings:
        raise ConfigurationError(f"{path}: no 'encoder'; the config.yaml of an ASR model is needed")
    # Not the YAML that config.yaml was made of: the parser would read that over it.
    parser.set_defaults(**{key: value for key, value in settings.items() if key != "config"})
    parser.exit_on_error = False
    try:
        arguments = parser.parse_args([])
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return arguments
