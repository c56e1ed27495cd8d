"""From a YAML file to the model that ESPnet builds of it, without data and without a training."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import encoder_choices
from torch.overrides import TorchFunctionMode

from espnet_moe_share.configuration import one_line_errors, read_arguments
from espnet_moe_share.signature import added_arguments
from espnet_moe_share.task import ASRTask


def _tokens(number: int) -> list[str]:
    return ["<blank>", "<unk>", *(f"token{n}" for n in range(2, number - 1)), "<sos/eos>"]


def _has_stats(arguments: argparse.Namespace) -> bool:
    settings = arguments.normalize_conf  # as read: what it has to be ESPnet says
    file = settings.get("stats_file") if isinstance(settings, Mapping) else None
    return not isinstance(file, str) or Path(file).is_file()


def read_complete_arguments(path: Path, vocab_size: int) -> argparse.Namespace:
    """Read a training's arguments and make up what its data would have given.

    Args:
        path: The file.
        vocab_size: Number of tokens, with blank, unknown and sos/eos, if the file names none.

    Returns:
        ESPnet's arguments, for ``ASRTask.build_model``.

    Raises:
        ConfigurationError: The file cannot be read, or is none of an ASR training.
    """
    arguments = read_arguments(path)
    if arguments.token_list is None:
        arguments.token_list = _tokens(vocab_size)
    if not _has_stats(arguments):
        # The model can be counted where its experiment's statistics are not.
        arguments.normalize, arguments.normalize_conf = "utterance_mvn", {}
    return arguments


class _ZeroInitialisation(TorchFunctionMode):
    """Fills with zeros where modules would draw random numbers, which takes most of a build.

    No figure depends on the values of the weights.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        drawing = func in (torch.Tensor.uniform_, torch.Tensor.normal_)
        if drawing or getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **kwargs)


def build_model(path: Path, arguments: argparse.Namespace) -> ESPnetASRModel:
    """Build a model by ESPnet's own task, on the CPU, with weights of no meaning.

    Args:
        path: Where the arguments come from; begins the message.
        arguments: From :func:`read_complete_arguments`.

    Raises:
        ConfigurationError: ESPnet cannot build it.
    """
    with one_line_errors(f"{path}: no model can be built"), _ZeroInitialisation():
        return ASRTask.build_model(arguments).eval()


def build_dense_encoder(arguments: argparse.Namespace, model: ESPnetASRModel) -> AbsEncoder | None:
    """Build the encoder that remains when all that our class adds to ESPnet's is taken away.

    Args:
        arguments: From :func:`read_complete_arguments`.
        model: The model built of them.

    Returns:
        The encoder on the meta device (shapes without values); None if there is nothing to take
        away, as in ESPnet's own encoders.
    """
    added = added_arguments(type(model.encoder))
    settings = {name: value for name, value in arguments.encoder_conf.items() if name not in added}
    if settings == arguments.encoder_conf:
        return None
    features = model.preencoder or model.frontend
    size = features.output_size() if features is not None else arguments.input_size
    with torch.device("meta"):
        return encoder_choices.get_class(arguments.encoder)(input_size=size, **settings)
