"""Transformation of an ESPnet encoder's layers by the knobs of ``encoder_conf``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.low_rank.replace import replace_by_factors
from espnet_moe_share.sharing.layers import SharedLayers
from espnet_moe_share.sharing.rules import parse_rules

_EXPERTS_KEYS = ("num_experts", "top_k", "modules")
_NO_FEED_FORWARD = (
    "none (is positionwise_layer_type linear and, in an E-Branchformer, use_ffn true?)"
)


def _check_experts(experts: Mapping[str, Any]) -> tuple[int, int, list[str]]:
    if not isinstance(experts, Mapping):
        raise ConfigurationError(
            f"experts must be a mapping with {', '.join(_EXPERTS_KEYS)}, not {experts!r}"
        )
    unknown = [str(key) for key in experts if key not in _EXPERTS_KEYS]
    if unknown:
        raise ConfigurationError(
            f"experts: unknown key '{unknown[0]}'; the keys are {', '.join(_EXPERTS_KEYS)}"
        )
    if "num_experts" not in experts:
        raise ConfigurationError("experts: 'num_experts' is missing")
    num_experts, top_k = experts["num_experts"], experts.get("top_k", 1)
    modules = experts.get("modules", ["feed_forward"])
    if type(num_experts) is not int or num_experts < 1:
        raise ConfigurationError(f"experts: 'num_experts' must be 1 or more, not {num_experts!r}")
    if type(top_k) is not int or not 1 <= top_k <= num_experts:
        raise ConfigurationError(
            f"experts: 'top_k' must be 1 to num_experts ({num_experts}), not {top_k!r}"
        )
    names = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    if not names or not modules:
        raise ConfigurationError(
            f"experts: 'modules' must be a list such as [feed_forward], not {modules!r}"
        )
    return num_experts, top_k, modules


def _replace_feed_forwards(
    layer: torch.nn.Module, num_experts: int, top_k: int, modules: Sequence[str]
) -> None:
    dense = {
        name: module
        for name, module in layer.named_children()
        if isinstance(module, PositionwiseFeedForward)
    }
    for name in modules:
        if name not in dense:
            raise ConfigurationError(
                f"experts: '{name}' in 'modules' is no linear feed-forward of an encoder layer; "
                f"those are {', '.join(dense) or _NO_FEED_FORWARD}"
            )
        hidden_units, size = dense[name].w_1.weight.shape
        moe = MixtureOfExperts(
            size, hidden_units, dense[name].dropout, dense[name].activation, num_experts, top_k
        )
        setattr(layer, name, moe)


def _pass_frame_mask(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of an encoder layer, which is called with (input, mask).

    Gradient checkpointing, too, runs the layer by its call, so that its second run has the mask.
    """
    mask = args[1] if len(args) > 1 else None
    for module in layer.children():
        if isinstance(module, MixtureOfExperts):
            module.frame_mask = mask


def transform_layers(
    layers: MultiSequential,
    experts: Mapping[str, Any] | None,
    low_rank: Sequence[Mapping[str, Any]] | None,
    sharing: Sequence[Mapping[str, Any]] | None,
) -> MultiSequential:
    """Put experts into encoder layers, then factors, then share what the rules say.

    In this order: factors replace what experts have left, and rules can share either.

    Args:
        layers: ESPnet's stack of encoder layers; changed in place.
        experts: ``num_experts``, ``top_k`` (default 1) and ``modules`` (default
            ``[feed_forward]``), the feed-forwards to replace; None leaves them dense.
        low_rank: Weights to replace by two factors (:mod:`espnet_moe_share.low_rank.replace`);
            None leaves all at full rank.
        sharing: Sharing rules (:mod:`espnet_moe_share.sharing.rules`); None shares nothing.

    Returns:
        The stack to use in place of ``layers``.

    Raises:
        ConfigurationError: A value or a name that cannot be, in one line.
    """
    if experts is not None:
        num_experts, top_k, modules = _check_experts(experts)
        for layer in layers:
            _replace_feed_forwards(layer, num_experts, top_k, modules)
            layer.register_forward_pre_hook(_pass_frame_mask)
    if low_rank is not None:
        replace_by_factors(layers, low_rank)
    if not sharing:
        return layers
    return SharedLayers(list(layers), parse_rules(sharing, len(layers)), layers.layer_drop_rate)


class MoeShareLayers(AbsEncoder):
    """What our encoders add to one of ESPnet's: the transformation of its layers.

    To be named before ESPnet's encoder among the bases. That encoder's own code builds the layers
    and runs them, so that all its arguments and outputs stay; without ``experts``, ``low_rank``
    and ``sharing`` nothing is changed.

    Args:
        experts: See :func:`transform_layers`.
        low_rank: See :mod:`espnet_moe_share.low_rank.replace`.
        sharing: See :mod:`espnet_moe_share.sharing.rules`.

    Raises:
        ConfigurationError: The experts, the factors or a sharing rule cannot be as given.
    """

    encoders: MultiSequential

    def __init__(
        self,
        *args: Any,
        experts: dict[str, Any] | None = None,
        low_rank: list[dict[str, Any]] | None = None,
        sharing: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.encoders = transform_layers(self.encoders, experts, low_rank, sharing)
