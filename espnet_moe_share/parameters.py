"""How many parameters a model holds, each shared one counted once."""

import torch


def _count(module: torch.nn.Module | None) -> int:
    # parameters() yields a parameter once however many modules hold it
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count the unique parameters of an ESPnet ASR model.

    Args:
        model: An ``ESPnetASRModel``, ours or ESPnet's.

    Returns:
        ``encoder_layer_params``: the encoder's stack of layers (``encoder.encoders``) alone.
        ``encoder_params``: the encoder with subsampling and final norm.
        ``total_params``: the whole model. Buffers (running statistics) are in none of them.
    """
    encoder = getattr(model, "encoder", None)
    return {
        "encoder_layer_params": _count(getattr(encoder, "encoders", None)),
        "encoder_params": _count(encoder),
        "total_params": _count(model),
    }
