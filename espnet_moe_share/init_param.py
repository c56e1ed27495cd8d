"""Files for ESPnet's ``--init_param`` that are made of a trained dense model.

What the commands ``svd_init`` and ``upcycle`` have in common. Importing it is light.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.files import check_writable, whole_file

if TYPE_CHECKING:
    import torch
    from espnet2.asr.espnet_model import ESPnetASRModel

LAYERS = "encoder.encoders."
# What a student has beside the model: not in a dense checkpoint, so left to the training.
_OF_STUDENTS = "distill_projection."
# What an ASR recipe gives on the command line and not in the YAML.
_OF_THE_DATA = (
    "token_list",
    "token_type",
    "bpemodel",
    "input_size",
    "normalize",
    "normalize_conf",
)


def build_model(config: Path, dense_args: argparse.Namespace) -> "ESPnetASRModel":
    """Build the model of a training's YAML for the data of the dense model.

    Args:
        config: YAML of the training to come.
        dense_args: Arguments of the dense model's training.

    Raises:
        ConfigurationError: The YAML cannot be read, or ESPnet cannot build its model.
    """
    from espnet_moe_share.configuration import one_line_errors, read_arguments
    from espnet_moe_share.encoder.layers import MoeShareLayers
    from espnet_moe_share.task import ASRTask

    args = read_arguments(config)
    for name in _OF_THE_DATA:
        setattr(args, name, getattr(dense_args, name))
    with one_line_errors(f"{config}: no model can be built"):
        model = ASRTask.build_model(args)
    if not isinstance(model.encoder, MoeShareLayers):
        raise ConfigurationError(
            f"{config}: encoder {args.encoder} knows neither experts, low_rank nor sharing; "
            "name one of ours, such as moe_share_conformer"
        )
    return model


def dense_layers(dense: "ESPnetASRModel") -> Any:
    """Return the encoder layers of a model.

    Raises:
        ConfigurationError: Its encoder is no stack of layers.
    """
    from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

    layers = getattr(dense.encoder, "encoders", None)
    if not isinstance(layers, MultiSequential):
        raise ConfigurationError(
            f"the dense model's encoder {type(dense.encoder).__name__} is no stack of layers"
        )
    return layers


def state_for_init_param(
    model: "ESPnetASRModel", dense: "ESPnetASRModel", new: tuple[str, ...] = ()
) -> dict[str, "torch.Tensor"]:
    """Complete a model whose encoder layers have their values by all else of the dense model.

    Args:
        model: The new model.
        dense: The trained model.
        new: Beginnings of keys that only the new model has, and keeps its values of.

    Returns:
        The state dict for ``--init_param``.

    Raises:
        ConfigurationError: The models differ outside the encoder's layers.
    """
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(_OF_STUDENTS)}
    own, others = (
        {k: v for k, v in one.items() if not k.startswith((LAYERS, _OF_STUDENTS, *new))}
        for one in (state, dense.state_dict())
    )
    for key in sorted(own.keys() | others.keys()):
        shapes = [tuple(one[key].shape) if key in one else "missing" for one in (others, own)]
        if shapes[0] != shapes[1]:
            raise ConfigurationError(
                f"'{key}' is {shapes[0]} in the dense model and {shapes[1]} in the new one; "
                "both need the same parts outside the encoder's layers"
            )
    return {**state, **others}


def get_parser(description: str) -> argparse.ArgumentParser:
    """Options, named as those of ``espnet2.bin.asr_inference`` and ``asr_train``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--asr_train_config", required=True, help="config.yaml of the dense model")
    parser.add_argument("--asr_model_file", required=True, help="its weights, *.pth")
    parser.add_argument("--config", type=Path, required=True, help="YAML of the training to come")
    parser.add_argument("--output", type=Path, required=True, help="file for --init_param")
    return parser


Start = Callable[
    ["ESPnetASRModel", "ESPnetASRModel"], tuple[dict[str, "torch.Tensor"], Iterable[str]]
]


def write_init_param(name: str, args: argparse.Namespace, start: Start) -> None:
    """Run a command: read the dense model, build the new one, write its state, print the account.

    Args:
        name: Of the command; begins its error messages.
        args: From :func:`get_parser`.
        start: From the new model and the dense one to the state dict to write and lines to print.
    """
    with exit_in_one_line(name):
        for file in (args.asr_train_config, args.asr_model_file, args.config):
            if not Path(file).is_file():  # before seconds of imports
                raise ConfigurationError(f"{file}: no such file")
        if args.output.resolve() == Path(args.asr_model_file).resolve():
            raise ConfigurationError(f"--output {args.output} is the dense model; name another")
        check_writable(args.output)
        import torch

        from espnet_moe_share.parameters import count_parameters
        from espnet_moe_share.task import ASRTask

        dense, dense_args = ASRTask.build_model_from_file(
            args.asr_train_config, args.asr_model_file
        )
        model = build_model(args.config, dense_args)
        state, lines = start(model, dense)
        # Given a path, torch reports a full disk by errors of its own.
        with whole_file(args.output) as temporary, temporary.open("wb") as stream:
            torch.save(state, stream)
    for line in lines:
        print(line)
    before, after = (count_parameters(one)["encoder_layer_params"] for one in (dense, model))
    print(
        f"{args.output}: {after} parameters in the encoder layers, {after / before:.3f} of the "
        f"dense model's {before}"
    )
