"""ESPnet's ASR task with our classes registered and strict loading.

For Python users and for ESPnet3, whose ``training.yaml`` takes it by name:
``task: espnet_moe_share.task.ASRTask``.
"""

import argparse
from pathlib import Path

from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_moe_share.checkpoint import build_strictly
from espnet_moe_share.registry import register

register()


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

        Arguments, result and errors: :func:`espnet_moe_share.checkpoint.build_strictly`.
        """
        return build_strictly(super().build_model_from_file, config_file, model_file, device)
