"""The encoder ``moe_share_e_branchformer``."""

from espnet2.asr.encoder.e_branchformer_encoder import (
    EBranchformerEncoder,
    EBranchformerEncoderLayer,
)

from espnet_moe_share.encoder.layers import MoeShareLayers
from espnet_moe_share.signature import extend_signature


@extend_signature
class MoeShareEBranchformerEncoder(MoeShareLayers, EBranchformerEncoder):
    """ESPnet's E-Branchformer encoder with experts in, and parameters shared across, its layers.

    Takes every argument of ``EBranchformerEncoder`` and those of :class:`MoeShareLayers`. A layer
    consists of ``attn``, ``cgmlp``, ``depthwise_conv_fusion``, ``merge_proj`` and their norms. The
    feed-forwards that experts replace are there with ``use_ffn`` (``feed_forward``) and
    ``macaron_ffn`` (``feed_forward_macaron``) only; both are off by default. The pattern
    ``*norm*`` covers the LayerNorms, that of the gate (``cgmlp.csgu.norm``) too.
    """

    layer_class = EBranchformerEncoderLayer
