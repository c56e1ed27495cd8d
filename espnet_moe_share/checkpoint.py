"""Strict comparison of a checkpoint's keys with a model's.

ESPnet loads with ``strict=False`` (``AbsTask.build_model_from_file``), so that a checkpoint of
another architecture decodes garbage without a word. Everything of ours loads through this check.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from espnet_moe_share.errors import CheckpointMismatchError

_SHOWN = 4


def _names(keys: set[str]) -> str:
    shown = ", ".join(sorted(keys)[:_SHOWN])
    return shown + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def check_keys(expected: Iterable[str], found: Iterable[str], where: str) -> None:
    """Refuse a checkpoint whose keys are not exactly the expected ones.

    Args:
        expected: Keys of the model's own state dict.
        found: Keys of the checkpoint.
        where: What is being loaded; begins the message.

    Raises:
        CheckpointMismatchError: One line with the keys that differ.
    """
    missing = set(expected) - set(found)
    unexpected = set(found) - set(expected)
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"the model needs {_names(missing)}")
    if unexpected:
        parts.append(f"the checkpoint has {_names(unexpected)}")
    raise mismatch(where, "; ".join(parts))


def check_shapes(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint with tensors of other shapes than the expected ones of the same key.

    Args:
        expected: The model's own state dict.
        found: The checkpoint.
        where: What is being loaded; begins the message.

    Raises:
        CheckpointMismatchError: One line with the keys and shapes that differ.
    """
    differing = {
        f"{key} {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    }
    if differing:
        raise mismatch(where, f"other shapes, {_names(differing)}")


def mismatch(where: str, what: str) -> CheckpointMismatchError:
    """Make the error about a checkpoint; ``what`` says how it differs."""
    return CheckpointMismatchError(
        f"{where}: the checkpoint does not fit the configuration: {what}; "
        "use the config.yaml that lies beside the checkpoint"
    )
