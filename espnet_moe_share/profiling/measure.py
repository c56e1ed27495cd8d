"""Multiply-accumulates of an encoder and bytes of a checkpoint."""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, cast

import humanfriendly
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_moe_share.experts.kernels import expert_kernel

# Feature frames per second of a model without a frontend, as Kaldi's features have.
_FRAMES_PER_SECOND = 100


@contextmanager
def _no_fused_kernels(module: torch.nn.Module) -> Iterator[None]:
    """Have attention and recurrent layers made of matrix products, all that the counter knows."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(part, torch.nn.RNNBase) for part in module.modules()):
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def count_encoder_macs(
    model: ESPnetASRModel, arguments: argparse.Namespace, speech_seconds: float
) -> int:
    """Count the multiply-accumulates of the encoder for one utterance, by running it.

    Matrix products and convolutions count, those of attention and of the chosen experts included;
    what works element by element (norms, activations, softmax) does not.

    Args:
        model: In eval mode, on the CPU.
        arguments: What it was built of.
        speech_seconds: Length of the utterance, which is noise.

    Returns:
        Multiply-accumulates for the whole utterance.
    """
    if model.frontend is not None:
        rate = arguments.frontend_conf.get("fs", 16000)
        rate = humanfriendly.parse_size(rate) if isinstance(rate, str) else rate
        speech = torch.randn(1, round(speech_seconds * rate))
    else:
        frames = round(speech_seconds * _FRAMES_PER_SECOND)
        speech = torch.randn(1, frames, arguments.input_size)
    counter = FlopCounterMode(display=False)
    # the counter knows the matrix products of the kernel "loop" only
    with torch.no_grad(), _no_fused_kernels(model.encoder), expert_kernel("loop"), counter:
        model.encode(speech, torch.tensor([speech.size(1)]))
    flops = counter.get_flop_counts().get(type(model.encoder).__name__, {})
    return sum(flops.values()) // 2


class _Counting:
    """A file to write to that keeps only the number of bytes."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def count_checkpoint_bytes(model: torch.nn.Module) -> int:
    """Count the bytes of the file that ``torch.save`` makes of the state dict.

    A file's name stands at each of its tensors: a long name adds some kilobytes.
    """
    file = _Counting()
    torch.save(dict(model.state_dict()), cast(IO[bytes], file))
    return file.size
