"""The encoder ``moe_share_transformer``."""

from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer

from espnet_moe_share.encoder.layers import MoeShareLayers
from espnet_moe_share.signature import extend_signature


@extend_signature
class MoeShareTransformerEncoder(MoeShareLayers, TransformerEncoder):
    """ESPnet's Transformer encoder with experts in, and parameters shared across, its layers.

    Takes every argument of ``TransformerEncoder`` and those of :class:`MoeShareLayers`. A layer
    consists of ``self_attn``, ``feed_forward``, ``norm1``, ``norm2`` and, with ``concat_after``,
    ``concat_linear``.
    """

    layer_class = EncoderLayer
