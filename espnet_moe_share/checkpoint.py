"""Strict loading: a checkpoint fits the model that its configuration describes, or is refused.

ESPnet loads with ``strict=False`` (``AbsTask.build_model_from_file``), so that a checkpoint of
another architecture decodes garbage without a word. Everything of ours loads through this check.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.other_plug_in import other_plug_in_errors

_SHOWN = 2


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


def require_files(*files: Path | str | None) -> None:
    """Raise ConfigurationError for the first file that is given and does not exist."""
    for file in files:
        if file is not None and not Path(file).is_file():
            raise ConfigurationError(f"{file}: no such file")


def read_weights(model_file: Path | str) -> dict[str, Any]:
    """Read a checkpoint, of which nothing but tensors and plain values is ever unpickled.

    ESPnet's own ``safe_torch_load`` asks on a terminal, and obeys an environment variable, whether
    to unpickle the rest, too, which runs whatever the file says. Here there is no such way: files
    that are to be loaded by ESPnet are read by this function first.

    Args:
        model_file: Checkpoint of ESPnet's trainer, of deepspeed or of lightning.

    Returns:
        The state dict.

    Raises:
        ConfigurationError: The file is missing, is no checkpoint, or holds other objects.
    """
    require_files(model_file)
    try:
        state = torch.load(model_file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a text or half a file makes torch raise whatever it may
        reason = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        what = f"it holds a {reason[1]}" if reason else "it is no checkpoint, or a damaged one"
        raise ConfigurationError(
            f"{model_file}: {what}; only weights are loaded, as torch.save(model.state_dict()) "
            "writes them"
        ) from None
    for wrapper in ("module", "state_dict"):  # deepspeed's, lightning's
        if isinstance(state, dict):
            state = state.get(wrapper, state)
    if not isinstance(state, dict):
        raise ConfigurationError(
            f"{model_file}: a {type(state).__name__} is no state dict; the model_file of a "
            "training is needed"
        )
    return state


def build_strictly(
    build: Callable[..., tuple[AbsESPnetModel, argparse.Namespace]],
    config_file: Path | str | None,
    model_file: Path | str | None,
    device: str,
) -> tuple[AbsESPnetModel, argparse.Namespace]:
    """Build and load a model as one of ESPnet's tasks does, but refuse what does not fit.

    Args:
        build: ``build_model_from_file`` of the task.
        config_file: config.yaml of the training; None: beside ``model_file``.
        model_file: Checkpoint (weights only); None leaves the initial weights.
        device: "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        The model and the training's arguments.

    Raises:
        ConfigurationError: A file is missing, those that the configuration names included, the
            model file holds more than weights, or the configuration needs another plug-in.
        CheckpointMismatchError: Keys or shapes differ; for any model, not only ours.
    """
    require_files(config_file, model_file)
    state = None if model_file is None else read_weights(model_file)
    try:
        with other_plug_in_errors():
            model, args = build(config_file, model_file, device)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{error.filename}, which {config_file or 'config.yaml'} names, is not here; run this "
            "in the directory of the training (the recipe's)"
        ) from None
    except RuntimeError as error:
        # torch's for ESPnet's own models: a headline, then one line for each tensor
        headline, *details = str(error).splitlines()
        if not headline.startswith("Error(s) in loading state_dict") or not details:
            raise
        raise mismatch(str(model_file), details[0].strip().rstrip(".")) from None
    if state is not None:
        check_keys(model.state_dict(), state, str(model_file))
    return model, args
