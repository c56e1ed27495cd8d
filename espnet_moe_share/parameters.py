"""How many parameters a model holds, each shared one counted once, and how many a frame uses."""

from collections import defaultdict

import torch

from espnet_moe_share.experts.feed_forward import MixtureOfExperts


def _parts(model: torch.nn.Module) -> dict[str, torch.nn.Module | None]:
    encoder = getattr(model, "encoder", None)
    return {
        "encoder_layer_params": getattr(encoder, "encoders", None),
        "encoder_params": encoder,
        "total_params": model,
    }


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
    return {name: _count(part) for name, part in _parts(model).items()}


def _count_unused(module: torch.nn.Module | None, over_all_layers: bool) -> int:
    """Parameters of those experts that a frame does not use."""
    if module is None:
        return 0
    users: dict[torch.nn.Parameter, list[MixtureOfExperts]] = defaultdict(list)
    for layer in module.modules():
        if isinstance(layer, MixtureOfExperts):
            for parameter in layer.experts.parameters():
                users[parameter].append(layer)
    unused = 0
    for parameter, layers in users.items():
        num_experts = layers[0].router.weight.size(0)
        used = layers[0].router.top_k * (len(layers) if over_all_layers else 1)
        # the experts' tensors are stacked: (E, ...)
        unused += parameter.numel() // num_experts * max(0, num_experts - used)
    return unused


def _count_used(model: torch.nn.Module, over_all_layers: bool) -> dict[str, int]:
    return {
        name: _count(part) - _count_unused(part, over_all_layers)
        for name, part in _parts(model).items()
    }


def count_active_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count the active parameters: all that are stored except the experts that are not chosen.

    Of every pool of E experts ``top_k`` count, also when several layers share the pool, and every
    shared parameter counts once. Without experts it is the stored number; without sharing it is
    what the literature on mixtures of experts calls active parameters; with both it is what
    the same encoder holds that has a single feed-forward where the experts are, plus the routers.

    Args:
        model: An ``ESPnetASRModel``, ours or ESPnet's.

    Returns:
        The same keys as :func:`count_parameters`.
    """
    return _count_used(model, over_all_layers=False)


def count_reachable_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count the most parameters that one frame can use on its way through all layers.

    L layers that share a pool of E experts may each choose others: min(E, L * ``top_k``) of the
    pool count. Without sharing it is the number of active parameters.

    Args:
        model: An ``ESPnetASRModel``, ours or ESPnet's.

    Returns:
        The same keys as :func:`count_parameters`.
    """
    return _count_used(model, over_all_layers=True)
