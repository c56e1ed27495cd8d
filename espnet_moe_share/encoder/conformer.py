"""The encoder ``moe_share_conformer``."""

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_moe_share.encoder.layers import MoeShareLayers
from espnet_moe_share.signature import extend_signature


@extend_signature
class MoeShareConformerEncoder(MoeShareLayers, ConformerEncoder):
    """ESPnet's Conformer encoder with experts in, and parameters shared across, its layers.

    Takes every argument of ``ConformerEncoder`` and those of :class:`MoeShareLayers`, and has the
    former's outputs: intermediate CTC, ``use_sdpa``, ``return_all_hs`` and too-short utterances
    are ESPnet's own code.

    The main system (Bai et al. 2022, Interspeech, "Parameter-Efficient Conformers via Sharing
    Sparsely-Gated Experts"): four experts in the second feed-forward, blocks shared within
    groups, routers and normalisation individual. ``*norm*`` below covers the LayerNorms and the
    convolution's batch norm with its running statistics::

        experts: {num_experts: 4, top_k: 1, modules: [feed_forward]}
        sharing:
        -   {modules: ["*"], except: ["*norm*", "*.router"], groups: 2}
    """

    layer_class = EncoderLayer
