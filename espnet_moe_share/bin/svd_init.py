"""Start a low-rank model from a trained dense one, by truncated singular value decomposition.

    python -m espnet_moe_share.bin.svd_init --asr_train_config exp/asr_dense/config.yaml \
        --asr_model_file exp/asr_dense/valid.acc.ave.pth \
        --config conf/train_low_rank_share_factors_conformer.yaml --output exp/svd_init.pth

and then train with ESPnet's own ``--init_param exp/svd_init.pth``. All that is neither factored
nor shared is the dense model's; docs/low_rank_sharing.md says what the rest becomes.
"""

from typing import TYPE_CHECKING

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.init_param import (
    dense_layers,
    get_parser,
    state_for_init_param,
    write_init_param,
)

if TYPE_CHECKING:
    import torch
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_moe_share.low_rank.from_dense import Reconstruction


def initial_state(
    model: "ESPnetASRModel", dense: "ESPnetASRModel"
) -> tuple[dict[str, "torch.Tensor"], list[str]]:
    """Put a dense model's weights into a model with factors and shared layers.

    Args:
        model: Has ``low_rank``, ``sharing`` or both; its encoder layers are changed in place.
        dense: The trained model.

    Returns:
        The state dict for ``--init_param``, and what became of each factored or shared weight.

    Raises:
        ConfigurationError: The models differ in more than factors and sharing.
    """
    from espnet_moe_share.low_rank.from_dense import initialize_from_dense

    reconstructions = initialize_from_dense(model.encoder.encoders, dense_layers(dense))
    if not reconstructions:
        raise ConfigurationError("encoder_conf has neither low_rank nor sharing: nothing to do")
    return state_for_init_param(model, dense), as_table(reconstructions)


def as_table(reconstructions: list["Reconstruction"]) -> list[str]:
    """One line for each weight of each layer."""
    lines = [f"{'layer':>5}  {'weight':<40}  {'shape':<14}  {'rank':>4}  {'error':>6}"]
    for one in reconstructions:
        shape = " x ".join(map(str, one.shape))
        rank = "full" if one.rank is None else one.rank
        lines.append(f"{one.layer:>5}  {one.path:<40}  {shape:<14}  {rank:>4}  {one.error:6.4f}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = get_parser(
        "Start a low-rank model from a trained dense one, by truncated singular value "
        "decomposition. Prints |W - W'| / |W| of every weight that is factored or shared."
    )
    write_init_param("svd_init", parser.parse_args(arguments), initial_state)


if __name__ == "__main__":
    main()
