"""Registration of our classes in ESPnet's own tables of choices.

ESPnet has no plug-in mechanism; its tasks look classes up in module-global ``ClassChoices``.
espnet2 and espnet3 keep separate tables.
"""

from importlib import import_module
from importlib.metadata import entry_points, version
from importlib.util import find_spec

from espnet_moe_share.errors import ConfigurationError

TESTED_ESPNET = "202611"
PLUG_INS = "espnet_moe_share"  # group of entry points: functions without arguments
_called_plug_ins: set[str] = set()
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
    classes[name] = cls


def register_encoder(name: str, cls: type) -> None:
    """Register an encoder in espnet2 and espnet3.

    Args:
        name: What a configuration names it, in lower case.
        cls: Subclass of ESPnet's ``AbsEncoder``, such as one of
            :class:`espnet_moe_share.encoder.layers.MoeShareLayers` and an encoder of ESPnet's.

    Raises:
        ImportError: The installed ESPnet lacks a table that we rely on.
        ConfigurationError: Another class holds the name, or it is not in lower case.
    """
    # ClassChoices tests name.lower() but indexes with the name as given
    if name != name.lower():
        raise ConfigurationError(f"encoder '{name}': ESPnet finds names in lower case only")
    for task in _TASKS:
        _add(task, "encoder_choices", name, cls)


def register_router(name: str, cls: type) -> None:
    """Register a router, which ``experts`` in ``encoder_conf`` can then name as ``router``.

    Args:
        name: What a configuration names it.
        cls: Subclass of :class:`espnet_moe_share.experts.router.TopKRouter`.

    Raises:
        ConfigurationError: It is none, or another class holds the name.
    """
    from espnet_moe_share.experts.router import ROUTERS, TopKRouter

    if not isinstance(cls, type) or not issubclass(cls, TopKRouter):
        raise ConfigurationError(
            f"router '{name}': {cls!r} must be a subclass of {TopKRouter.__module__}.TopKRouter"
        )
    if ROUTERS.setdefault(name, cls) is not cls:
        raise ConfigurationError(
            f"router '{name}' is already {ROUTERS[name]!r}; choose another name than {cls!r} has"
        )


def register() -> None:
    """Register our encoders and the model ``moe_share`` in espnet2 and espnet3.

    Then call the functions that installed packages name as entry points of the group
    ``espnet_moe_share``, each once: routers and encoders of users.

    espnet2's ASR task also gets our trainer, which draws the experts' load for TensorBoard; not
    with DeepSpeed installed, with which ESPnet takes no trainer but its own.

    Calling it again changes nothing.

    Raises:
        ImportError: The installed ESPnet lacks a table that we rely on.
        ConfigurationError: Another class holds one of our names.
        Exception: Whatever a plug-in raises, with a note that says which.
    """
    from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder
    from espnet_moe_share.encoder.e_branchformer import MoeShareEBranchformerEncoder
    from espnet_moe_share.encoder.transformer import MoeShareTransformerEncoder
    from espnet_moe_share.model import MoeShareASRModel

    register_encoder("moe_share_conformer", MoeShareConformerEncoder)
    register_encoder("moe_share_transformer", MoeShareTransformerEncoder)
    register_encoder("moe_share_e_branchformer", MoeShareEBranchformerEncoder)
    for task in _TASKS:
        _add(task, "model_choices", "moe_share", MoeShareASRModel)
    _set_trainer()
    _call_plug_ins()


def _call_plug_ins() -> None:
    for plug_in in entry_points(group=PLUG_INS):
        if plug_in.value in _called_plug_ins:
            continue
        # before the call: a plug-in may import what registers
        _called_plug_ins.add(plug_in.value)
        try:
            plug_in.load()()
        except Exception as error:
            _called_plug_ins.discard(plug_in.value)
            error.add_note(f"in the plug-in {plug_in.value} (entry point of {PLUG_INS})")
            raise


def _set_trainer() -> None:
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.trainer import Trainer

    from espnet_moe_share.trainer import LoadFigureTrainer

    # Somebody else's trainer stays.
    if ASRTask.trainer is Trainer and find_spec("deepspeed") is None:
        ASRTask.trainer = LoadFigureTrainer
