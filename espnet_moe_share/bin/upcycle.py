"""Start a student with experts and shared layers from a trained dense model ("upcycling").

    python -m espnet_moe_share.bin.upcycle --asr_train_config exp/asr_teacher/config.yaml \
        --asr_model_file exp/asr_teacher/valid.acc.ave.pth \
        --config conf/train_moe_share_conformer.yaml --output exp/upcycled.pth

and then train with ESPnet's own ``--init_param exp/upcycled.pth``. Prints where each tensor of the
file comes from; docs/upcycling.md says more.
"""

import argparse
import math
from typing import TYPE_CHECKING

from espnet_moe_share.init_param import (
    LAYERS,
    dense_layers,
    get_parser,
    state_for_init_param,
    write_init_param,
)

if TYPE_CHECKING:
    import torch
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_moe_share.experts.upcycling import Upcycling

# What a SpeechMoE has beside a dense model.
_NEW = ("encoder.embedding_network.", "embedding_ctc.")


def initial_state(
    model: "ESPnetASRModel", dense: "ESPnetASRModel", upcycling: "Upcycling"
) -> tuple[dict[str, "torch.Tensor"], list[str]]:
    """Put a dense model's weights into a model with experts.

    Args:
        model: Its encoder layers are changed in place.
        dense: The trained model.
        upcycling: How.

    Returns:
        The state dict for ``--init_param``, and one line for each of its tensors.

    Raises:
        ConfigurationError: The models do not correspond.
    """
    from espnet_moe_share.experts.upcycling import upcycle_layers
    from espnet_moe_share.sharing.layers import SharedLayers

    layers = model.encoder.encoders
    found = upcycle_layers(layers, dense_layers(dense), upcycling)
    state = state_for_init_param(model, dense, _NEW)
    sources = {}
    for (number, path), source in found.items():
        key = f"{number}.{path}"
        key = layers.shared_key(key) if isinstance(layers, SharedLayers) else key
        sources[LAYERS + key] = source
    lines = []
    for key, tensor in state.items():
        source = sources.get(key, "new, random" if key.startswith(_NEW) else "the dense model's")
        shape = " x ".join(map(str, tensor.shape))
        lines.append(f"{key:<72}  {shape:<16}  {source}")
    return state, lines


def _place(text: str) -> int | None:
    if text == "mean":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: mean, or a place such as 0 or -1, is needed"
        ) from None


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number of 0 or more is needed")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = get_parser(
        "Start a student with experts and shared layers from a trained dense model. Prints where "
        "each tensor comes from."
    )
    parser.add_argument(
        "--shared",
        type=_place,
        default=None,
        metavar="{mean,0,1,...,-1}",
        help="what layers share is the mean of their dense layers' [default], or that of one: "
        "its place in the group, 0 the first, -1 the last",
    )
    parser.add_argument(
        "--experts",
        choices=("same", "layers"),
        default="same",
        help="all experts start from the same feed-forward, given by --shared, or from those of "
        "different layers of their group, evenly chosen [%(default)s]",
    )
    parser.add_argument(
        "--noise",
        type=_not_negative,
        default=0.01,
        help="added to each expert's weights, relative to their standard deviation [%(default)s]",
    )
    parser.add_argument(
        "--router_std",
        type=_not_negative,
        default=0.1,
        help="standard deviation of the new routers' logits for input of variance 1 [%(default)s]",
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise and routers [%(default)s]")
    args = parser.parse_args(arguments)

    def start(
        model: "ESPnetASRModel", dense: "ESPnetASRModel"
    ) -> tuple[dict[str, "torch.Tensor"], list[str]]:
        from espnet_moe_share.experts.upcycling import Upcycling

        upcycling = Upcycling(
            args.shared, args.experts == "layers", args.noise, args.router_std, args.seed
        )
        return initial_state(model, dense, upcycling)

    write_init_param("upcycle", args, start)


if __name__ == "__main__":
    main()
