"""ESPnet's ASR task with our classes registered and strict loading.

For Python users and for ESPnet3, whose ``training.yaml`` takes it by name:
``task: espnet_moe_share.task.ASRTask``.
"""

import argparse
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_moe_share.checkpoint import check_keys, mismatch
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.registry import register

register()


def require_files(*files: Path | str | None) -> None:
    """Raise ConfigurationError for the first file that is given and does not exist."""
    for file in files:
        if file is not None and not Path(file).is_file():
            raise ConfigurationError(f"{file}: no such file")


def check_model_file(model: torch.nn.Module, model_file: Path | str) -> None:
    """Compare the keys of a checkpoint file with those of the model it was loaded into.

    Args:
        model: Any module; ESPnet's own too.
        model_file: Checkpoint of ESPnet's trainer, of deepspeed or of lightning.

    Raises:
        CheckpointMismatchError: The keys differ.
    """
    state = safe_torch_load(model_file, map_location="cpu")
    for wrapper in ("module", "state_dict"):  # deepspeed's, lightning's
        state = state.get(wrapper, state)
    check_keys(model.state_dict(), state, str(model_file))


class ASRTask(ESPnetASRTask):
    """``espnet2.tasks.asr.ASRTask`` that refuses a checkpoint which does not fit.

    A process that unpickles a method of this class imports this module, and is registered.
    """

    @classmethod
    def build_model_from_file(
        cls,
        config_file: Path | str | None = None,
        model_file: Path | str | None = None,
        device: str = "cpu",
    ) -> tuple[AbsESPnetModel, argparse.Namespace]:
        """Build a model from a training's config.yaml and load its weights strictly.

        Args:
            config_file: config.yaml of the training; default: beside ``model_file``.
            model_file: Checkpoint (weights only); None leaves the initial weights.
            device: "cpu", "cuda", "cuda:N" or "mps".

        Returns:
            The model and the training's arguments.

        Raises:
            ConfigurationError: A file is missing.
            CheckpointMismatchError: Keys or shapes differ; for any model, not only ours.
        """
        require_files(config_file, model_file)
        try:
            model, args = super().build_model_from_file(config_file, model_file, device)
        except RuntimeError as error:
            # torch's for ESPnet's own models: a headline, then one line for each tensor
            headline, *details = str(error).splitlines()
            if not headline.startswith("Error(s) in loading state_dict") or not details:
                raise
            raise mismatch(str(model_file), details[0].strip().rstrip(".")) from None
        if model_file is not None:
            check_model_file(model, model_file)
        return model, args
