"""Start a low-rank model from a trained dense one, by truncated singular value decomposition.

    python -m espnet_moe_share.bin.svd_init --asr_train_config exp/asr_dense/config.yaml \
        --asr_model_file exp/asr_dense/valid.acc.ave.pth \
        --config conf/train_low_rank_share_factors_conformer.yaml --output exp/svd_init.pth

and then train with ESPnet's own ``--init_param exp/svd_init.pth``. All that is neither factored
nor shared is the dense model's; docs/low_rank_sharing.md says what the rest becomes.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.files import whole_file

if TYPE_CHECKING:
    import torch
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_moe_share.low_rank.from_dense import Reconstruction

_LAYERS = "encoder.encoders."
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
            f"{config}: encoder {args.encoder} knows neither low_rank nor sharing; "
            "name one of ours, such as moe_share_conformer"
        )
    return model


def initial_state(
    model: "ESPnetASRModel", dense: "ESPnetASRModel"
) -> tuple[dict[str, "torch.Tensor"], list["Reconstruction"]]:
    """Put a dense model's weights into a model with factors and shared layers.

    Args:
        model: Has ``low_rank``, ``sharing`` or both; its encoder layers are changed in place.
        dense: The trained model.

    Returns:
        The state dict for ``--init_param``, and what became of each factored or shared weight.

    Raises:
        ConfigurationError: The models differ in more than factors and sharing.
    """
    from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

    from espnet_moe_share.low_rank.from_dense import initialize_from_dense

    if not isinstance(getattr(dense.encoder, "encoders", None), MultiSequential):
        raise ConfigurationError(
            f"the dense model's encoder {type(dense.encoder).__name__} is no stack of layers"
        )
    reconstructions = initialize_from_dense(model.encoder.encoders, dense.encoder.encoders)
    if not reconstructions:
        raise ConfigurationError("encoder_conf has neither low_rank nor sharing: nothing to do")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(_OF_STUDENTS)}
    own, others = (
        {k: v for k, v in one.items() if not k.startswith((_LAYERS, _OF_STUDENTS))}
        for one in (state, dense.state_dict())
    )
    for key in sorted(own.keys() | others.keys()):
        shapes = [tuple(one[key].shape) if key in one else "missing" for one in (others, own)]
        if shapes[0] != shapes[1]:
            raise ConfigurationError(
                f"'{key}' is {shapes[0]} in the dense model and {shapes[1]} in the new one; "
                "both need the same parts outside the encoder's layers"
            )
    return {**state, **others}, reconstructions


def save(state: dict[str, Any], output: Path) -> None:
    """Write a state dict that appears under its name only when it is whole."""
    import torch

    with whole_file(output) as temporary:
        torch.save(state, temporary)


def as_table(reconstructions: list["Reconstruction"]) -> str:
    """One line for each weight of each layer."""
    lines = [f"{'layer':>5}  {'weight':<40}  {'shape':<14}  {'rank':>4}  {'error':>6}"]
    for one in reconstructions:
        shape = " x ".join(map(str, one.shape))
        rank = "full" if one.rank is None else one.rank
        lines.append(f"{one.layer:>5}  {one.path:<40}  {shape:<14}  {rank:>4}  {one.error:6.4f}")
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    """Options, named as those of ``espnet2.bin.asr_inference`` and ``asr_train``."""
    parser = argparse.ArgumentParser(
        description="Start a low-rank model from a trained dense one, by truncated singular value "
        "decomposition. Prints |W - W'| / |W| of every weight that is factored or shared."
    )
    parser.add_argument("--asr_train_config", required=True, help="config.yaml of the dense model")
    parser.add_argument("--asr_model_file", required=True, help="its weights, *.pth")
    parser.add_argument("--config", type=Path, required=True, help="YAML of the low-rank training")
    parser.add_argument("--output", type=Path, required=True, help="file for --init_param")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    args = get_parser().parse_args(arguments)
    try:
        for file in (args.asr_train_config, args.asr_model_file, args.config):
            if not Path(file).is_file():  # before seconds of imports
                raise ConfigurationError(f"{file}: no such file")
        if args.output.resolve() == Path(args.asr_model_file).resolve():
            raise ConfigurationError(f"--output {args.output} is the dense model; name another")
        from espnet_moe_share.parameters import count_parameters
        from espnet_moe_share.task import ASRTask

        dense, dense_args = ASRTask.build_model_from_file(
            args.asr_train_config, args.asr_model_file
        )
        model = build_model(args.config, dense_args)
        state, reconstructions = initial_state(model, dense)
        save(state, args.output)
    except (ConfigurationError, CheckpointMismatchError) as error:
        sys.exit(f"svd_init: error: {error}")
    except OSError as error:
        sys.exit(f"svd_init: error: {error.filename or args.output}: {error.strerror or error}")
    print(as_table(reconstructions))
    before, after = (count_parameters(one)["encoder_layer_params"] for one in (dense, model))
    print(
        f"{args.output}: {after} parameters in the encoder layers, {after / before:.3f} of the "
        f"dense model's {before}"
    )


if __name__ == "__main__":
    main()
