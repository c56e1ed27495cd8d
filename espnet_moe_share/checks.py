"""Checks that the mappings of a YAML file have in common."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_moe_share.errors import ConfigurationError


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; ``true``, ``.nan`` and ``.inf`` of YAML are none."""
    return type(value) in (int, float) and math.isfinite(value)


def check_mapping(name: str, value: Any, contents: str) -> None:
    """Check that a value is a mapping.

    Args:
        name: What messages call it, such as ``sharing[0]``.
        value: As read.
        contents: What it should hold; follows "a mapping" in the message.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} must be a mapping {contents}, not {value!r}")


def check_mapping_keys(
    name: str, mapping: Mapping[Any, Any], known: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Check that a mapping has no other keys than the known ones, and all the required ones.

    Raises:
        ConfigurationError: Names the first that is unknown or missing.
    """
    for key in mapping:
        if key not in known:
            raise ConfigurationError(
                f"{name}: unknown key '{key}'; the keys are {', '.join(known)}"
            )
    for key in required:
        if key not in mapping:
            raise ConfigurationError(f"{name}: '{key}' is missing")


def check_names(name: str, key: str, value: Any, example: str) -> None:
    """Check that the value of a key is a list of one text or more.

    Raises:
        ConfigurationError: It is not; the message has the example.
    """
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    if not texts or not value:
        raise ConfigurationError(f"{name}: '{key}' must be a list such as {example}, not {value!r}")
