"""The encoder ``moe_share_conformer``."""

from typing import Any

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

from espnet_moe_share.encoder.layers import transform_layers
from espnet_moe_share.signature import extend_signature


@extend_signature
class MoeShareConformerEncoder(ConformerEncoder):
    """ESPnet's Conformer encoder with experts in, and parameters shared across, its layers.

    Takes every argument of ``ConformerEncoder`` and has its outputs: intermediate CTC,
    ``use_sdpa``, ``return_all_hs`` and too-short utterances are ESPnet's own code. With neither
    ``experts`` nor ``sharing`` it is that encoder.

    The main system (Bai et al. 2022, Interspeech, "Parameter-Efficient Conformers via Sharing
    Sparsely-Gated Experts"): four experts in the second feed-forward, blocks shared within
    groups, routers and normalisation individual. ``*norm*`` below covers the LayerNorms and the
    convolution's batch norm with its running statistics::

        experts: {num_experts: 4, top_k: 1, modules: [feed_forward]}
        sharing:
        -   {modules: ["*"], except: ["*norm*", "*.router"], groups: 2}

    Args:
        experts: See :func:`espnet_moe_share.encoder.layers.transform_layers`.
        sharing: See :mod:`espnet_moe_share.sharing.rules`.

    Raises:
        ConfigurationError: The experts or a sharing rule cannot be as given.
    """

    encoders: MultiSequential

    def __init__(
        self,
        *args: Any,
        experts: dict[str, Any] | None = None,
        sharing: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.encoders = transform_layers(self.encoders, experts, sharing)
