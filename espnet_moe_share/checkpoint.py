"""Strict comparison of a checkpoint's keys with a model's.

ESPnet loads with ``strict=False`` (``AbsTask.build_model_from_file``), so that a checkpoint of
another architecture decodes garbage without a word. Everything of ours loads through this check.
"""

from collections.abc import Iterable

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
    raise CheckpointMismatchError(
        f"{where}: the checkpoint does not fit the configuration: {'; '.join(parts)}; "
        "use the config.yaml that lies beside the checkpoint"
    )
