"""What ESPnet's encoders hold in memory and ours do not need to.

The input layer, in inference on a CPU: its first convolution makes the largest tensor of an
encoder. oneDNN computes convolutions in an order of its own, so that with torch's default order,
all places of a channel together, this tensor is in memory twice, and again for the second
convolution. With all channels of a place together (``torch.channels_last``) oneDNN takes and gives
tensors as they are. In training that order is the slower one (benchmarks/pieces.py).

Attention weights: each of ESPnet's attentions keeps its last ones (B, heads, T, T) for whoever
plots them. All layers' together outgrow everything else in a long utterance.

Relative positions: ESPnet makes a table of them for 5,000 frames, 10 MB at width 256, and a longer
one for whatever is longer. Ours begins with fewer, and grows in the same way.

Swish: ESPnet's is a product of two tensors, which autograd keeps both. torch's SiLU, the same
function, keeps its input alone, and reads and writes half as much.
"""

from collections.abc import Iterable
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding

from espnet_moe_share.experts.kernels import is_traced

# 40 s of speech in ESPnet's usual frames of 40 ms
_FRAMES_IN_TABLE = 1000


def _with_channels_last(
    convolutions: torch.nn.Module, args: tuple[Any, ...]
) -> tuple[torch.Tensor] | None:
    """Forward pre-hook: convolutions take over the order of their input (B, 1, L, F).

    With one channel it is the same numbers in the same places, with another stride.
    """
    (x_BCLF,) = args
    if torch.is_grad_enabled() or x_BCLF.device.type != "cpu" or is_traced():
        return None
    return (x_BCLF.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2),)


def _forget_attention(layer: torch.nn.Module, *_: Any) -> None:
    """Forward hook of an encoder layer.

    ESPnet's plots take the weights by a hook of the attention itself, which has run by then.
    """
    for module in layer.children():
        if isinstance(module, MultiHeadedAttention):
            module.attn = None


def _shorten_table(positions: RelPositionalEncoding) -> None:
    positions.pe = None  # type: ignore[assignment]
    positions.extend_pe(torch.tensor(0.0).expand(1, _FRAMES_IN_TABLE))


def _use_silu(layer: torch.nn.Module) -> None:
    for module in layer.modules():
        for name, child in module.named_children():
            if isinstance(child, Swish):
                setattr(module, name, torch.nn.SiLU())


def save_memory(embed: torch.nn.Module | None, layers: Iterable[torch.nn.Module]) -> None:
    """Have an encoder run in less memory than ESPnet's, with the same output but for rounding.

    Args:
        embed: ESPnet's input layer. Convolutions that are not two-dimensional, and positions that
            are not relative, stay as they are.
        layers: ESPnet's encoder layers. After their forward pass ``attn`` of their attention is
            None.
    """
    for module in embed.modules() if embed is not None else ():
        if type(module) is RelPositionalEncoding:
            _shorten_table(module)
    convolutions = getattr(embed, "conv", None)
    if isinstance(convolutions, torch.nn.Sequential):
        first = convolutions[0]
        if isinstance(first, torch.nn.Conv2d) and first.in_channels == 1:
            convolutions.register_forward_pre_hook(_with_channels_last)
    for layer in layers:
        _use_silu(layer)
        layer.register_forward_hook(_forget_attention)
