"""All figures of one configuration."""

import math
from dataclasses import dataclass
from pathlib import Path

from espnet_moe_share.configuration import one_line_errors
from espnet_moe_share.parameters import (
    count_active_parameters,
    count_parameters,
    count_reachable_parameters,
)
from espnet_moe_share.profiling import AISHELL_TOKENS, SPEECH_SECONDS
from espnet_moe_share.profiling.configuration import (
    build_dense_encoder,
    build_model,
    read_complete_arguments,
)
from espnet_moe_share.profiling.measure import count_checkpoint_bytes, count_encoder_macs
from espnet_moe_share.sharing.summary import SharedParts, summarize_sharing


@dataclass(frozen=True)
class Profile:
    """What a model stores, uses and computes.

    The dictionaries have the keys of :func:`espnet_moe_share.parameters.count_parameters`.

    Attributes:
        config: The file, as it was named.
        encoder: Name of the encoder in the configuration.
        num_tokens: Size of the vocabulary.
        stored: Parameters, each shared one counted once.
        active: See :func:`espnet_moe_share.parameters.count_active_parameters`.
        reachable: See :func:`espnet_moe_share.parameters.count_reachable_parameters`.
        dense: Parameters if the encoder had no sharing, no experts and whatever else we add.
        speech_seconds: Length of the utterance that was encoded.
        encoder_macs: Multiply-accumulates of the encoder for it.
        checkpoint_bytes: Size of a file of the model's weights.
        sharing: Which parts of the encoder's layers are shared by which layers.
    """

    config: str
    encoder: str
    num_tokens: int
    stored: dict[str, int]
    active: dict[str, int]
    reachable: dict[str, int]
    dense: dict[str, int]
    speech_seconds: float
    encoder_macs: int
    checkpoint_bytes: int
    sharing: list[SharedParts]

    @property
    def encoder_gmacs_per_second(self) -> float:
        """Billions of multiply-accumulates of the encoder per second of speech."""
        return self.encoder_macs / self.speech_seconds / 1e9

    @property
    def share_of_dense(self) -> float:
        """Stored parameters of the encoder's layers as a share of the dense encoder's layers.

        NaN for an encoder without a stack of layers, such as ESPnet's ``vgg_rnn``.
        """
        stored, dense = (counts["encoder_layer_params"] for counts in (self.stored, self.dense))
        return stored / dense if dense else math.nan


def profile(
    config: Path | str, vocab_size: int = AISHELL_TOKENS, speech_seconds: float = SPEECH_SECONDS
) -> Profile:
    """Build the model of one configuration and take its figures.

    Neither pretrained weights nor a teacher nor data are needed.

    Args:
        config: YAML of an ASR training, or config.yaml of an experiment.
        vocab_size: Number of tokens if the file names none.
        speech_seconds: Length of the utterance whose operations are counted.

    Raises:
        ConfigurationError: The file is missing or wrong, in one line.
    """
    arguments = read_complete_arguments(Path(config), vocab_size)
    model = build_model(Path(config), arguments)
    stored = count_parameters(model)
    dense = dict(stored)
    dense_encoder = build_dense_encoder(arguments, model)
    if dense_encoder is not None:
        layers = sum(parameter.numel() for parameter in dense_encoder.encoders.parameters())
        whole = sum(parameter.numel() for parameter in dense_encoder.parameters())
        rest = stored["total_params"] - stored["encoder_params"]
        dense = dict(zip(stored, (layers, whole, whole + rest)))
    with one_line_errors(f"{config}: {speech_seconds} s of speech cannot be encoded"):
        encoder_macs = count_encoder_macs(model, arguments, speech_seconds)
    return Profile(
        config=str(config),
        encoder=arguments.encoder,
        num_tokens=len(arguments.token_list),
        stored=stored,
        active=count_active_parameters(model),
        reachable=count_reachable_parameters(model),
        dense=dense,
        speech_seconds=speech_seconds,
        encoder_macs=encoder_macs,
        checkpoint_bytes=count_checkpoint_bytes(model),
        sharing=summarize_sharing(list(getattr(model.encoder, "encoders", []))),
    )
