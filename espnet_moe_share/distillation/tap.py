"""What goes into and comes out of a student's encoder, kept for the teacher."""

from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel


class EncoderTap:
    """Keeps what goes into and comes out of a model's encoder during one forward.

    Attributes:
        features: Features after SpecAugment and before normalisation (B, T, F), cloned: ESPnet
            normalises in place.
        features_lengths: Their lengths (B,).
        encoder_out: Output of the encoder (B, T', D).
        encoder_out_lens: Its lengths (B,).
    """

    features: torch.Tensor
    features_lengths: torch.Tensor
    encoder_out: torch.Tensor
    encoder_out_lens: torch.Tensor

    def __init__(self, model: ESPnetASRModel) -> None:
        first = next(
            module
            for module in (model.normalize, model.preencoder, model.encoder)
            if module is not None
        )
        self._handles = [
            first.register_forward_pre_hook(self._keep_features),
            model.encoder.register_forward_hook(self._keep_output),
        ]

    def _keep_features(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.features, self.features_lengths = args[0].detach().clone(), args[1].clone()

    def _keep_output(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        encoder_out, self.encoder_out_lens = output[0], output[1]
        self.encoder_out = encoder_out[0] if isinstance(encoder_out, tuple) else encoder_out

    def __enter__(self) -> "EncoderTap":
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
