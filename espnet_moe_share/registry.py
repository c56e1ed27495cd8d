"""Registration of our classes in ESPnet's own tables of choices.

ESPnet has no plug-in mechanism; its tasks look classes up in module-global ``ClassChoices``.
espnet2 and espnet3 keep separate tables.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from espnet_moe_share.errors import ConfigurationError

TESTED_ESPNET = "202611"
_TASKS = ("espnet2.tasks.asr", "espnet3.systems.esp2_asr.task")


def _add(task: str, table: str, name: str, cls: type) -> None:
    choices = getattr(import_module(task), table, None)
    classes = getattr(choices, "classes", None)
    base = getattr(choices, "base_type", None)
    if not isinstance(classes, dict) or not isinstance(base, type) or not issubclass(cls, base):
        raise ImportError(
            f"ESPnet {version('espnet')} has no usable {task}.{table}.classes, where "
            f"espnet_moe_share registers '{name}'; the tested release is {TESTED_ESPNET}: "
            f"pip install 'espnet[train]=={TESTED_ESPNET}'"
        )
    if classes.get(name, cls) is not cls:
        raise ConfigurationError(
            f"'{name}' in {task}.{table} is already {classes[name]!r}; "
            "two plug-ins claim the same name, import only one of them"
        )
    # ClassChoices tests name.lower() but indexes with the name as given: only lower case works.
    classes[name.lower()] = cls


def register() -> None:
    """Register our encoders and the model ``moe_share`` in espnet2 and espnet3.

    espnet2's ASR task also gets our trainer, which draws the experts' load for TensorBoard; not
    with DeepSpeed installed, with which ESPnet takes no trainer but its own.

    Calling it again changes nothing.

    Raises:
        ImportError: The installed ESPnet lacks a table that we rely on.
        ConfigurationError: Another class holds one of our names.
    """
    from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder
    from espnet_moe_share.encoder.e_branchformer import MoeShareEBranchformerEncoder
    from espnet_moe_share.encoder.transformer import MoeShareTransformerEncoder
    from espnet_moe_share.model import MoeShareASRModel

    for task in _TASKS:
        _add(task, "encoder_choices", "moe_share_conformer", MoeShareConformerEncoder)
        _add(task, "encoder_choices", "moe_share_transformer", MoeShareTransformerEncoder)
        _add(task, "encoder_choices", "moe_share_e_branchformer", MoeShareEBranchformerEncoder)
        _add(task, "model_choices", "moe_share", MoeShareASRModel)
    _set_trainer()


def _set_trainer() -> None:
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.trainer import Trainer

    from espnet_moe_share.trainer import LoadFigureTrainer

    # Somebody else's trainer stays.
    if ASRTask.trainer is Trainer and find_spec("deepspeed") is None:
        ASRTask.trainer = LoadFigureTrainer
