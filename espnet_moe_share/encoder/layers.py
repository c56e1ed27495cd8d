"""Transformation of an ESPnet encoder's layers by the knobs of ``encoder_conf``."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

from espnet_moe_share.checks import check_mapping, check_mapping_keys, check_names
from espnet_moe_share.encoder.checkpointing import check_numbers, checkpoint_layers
from espnet_moe_share.encoder.embedding_network import EmbeddingNetwork, router_embedding
from espnet_moe_share.encoder.memory import save_memory
from espnet_moe_share.encoder.position_projection import project_positions_once
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.options import OPTION_KEYS, ExpertOptions, parse_options
from espnet_moe_share.experts.router import ROUTERS
from espnet_moe_share.low_rank.replace import replace_by_factors
from espnet_moe_share.sharing.building import Ties
from espnet_moe_share.sharing.layers import SharedLayers
from espnet_moe_share.sharing.rules import parse_rules

_CHECKPOINT_KEY = "gradient_checkpoint_layers"
_EXPERTS_KEYS = ("num_experts", "top_k", "modules", *OPTION_KEYS)
_NO_FEED_FORWARD = (
    "none (is positionwise_layer_type linear and, in an E-Branchformer, use_ffn true?)"
)


def _check_experts(experts: Mapping[str, Any]) -> tuple[int, int, list[str]]:
    check_mapping("experts", experts, f"with {', '.join(_EXPERTS_KEYS)}")
    check_mapping_keys("experts", experts, _EXPERTS_KEYS, required=["num_experts"])
    num_experts, top_k = experts["num_experts"], experts.get("top_k", 1)
    modules = experts.get("modules", ["feed_forward"])
    if type(num_experts) is not int or num_experts < 1:
        raise ConfigurationError(f"experts: 'num_experts' must be 1 or more, not {num_experts!r}")
    if type(top_k) is not int or not 1 <= top_k <= num_experts:
        raise ConfigurationError(
            f"experts: 'top_k' must be 1 to num_experts ({num_experts}), not {top_k!r}"
        )
    check_names("experts", "modules", modules, "[feed_forward]")
    return num_experts, top_k, modules


def _replace_feed_forwards(
    layer: torch.nn.Module,
    num_experts: int,
    top_k: int,
    modules: Sequence[str],
    options: ExpertOptions,
    embedding_size: int,
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
        dropout = dense[name].dropout
        if options.dropout_rate is not None:
            dropout = torch.nn.Dropout(options.dropout_rate)
        moe = MixtureOfExperts(
            size,
            hidden_units,
            dropout,
            dense[name].activation,
            num_experts,
            top_k,
            capacity_factor=options.capacity_factor,
            jitter=options.jitter,
            bias_update_rate=options.bias_update_rate,
            embedding_size=embedding_size,
            router_class=ROUTERS[options.router],
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
            module.embedding = router_embedding(mask)


def transform_layers(
    layers: MultiSequential,
    experts: Mapping[str, Any] | None,
    low_rank: Sequence[Mapping[str, Any]] | None,
    sharing: Sequence[Mapping[str, Any]] | None,
    embedding_size: int = 0,
) -> MultiSequential:
    """Put experts into encoder layers, then factors, then share what the rules say.

    In this order: factors replace what experts have left, and rules can share either.

    Args:
        layers: ESPnet's stack of encoder layers; changed in place.
        experts: ``num_experts``, ``top_k`` (default 1) and ``modules`` (default
            ``[feed_forward]``), the feed-forwards to replace, and the options of
            :class:`espnet_moe_share.experts.options.ExpertOptions`; None leaves them dense.
        low_rank: Weights to replace by two factors (:mod:`espnet_moe_share.low_rank.replace`);
            None leaves all at full rank.
        sharing: Sharing rules (:mod:`espnet_moe_share.sharing.rules`); None shares nothing.
        embedding_size: Width of what the routers see beside their layer's input; 0: nothing.

    Returns:
        The stack to use in place of ``layers``.

    Raises:
        ConfigurationError: A value or a name that cannot be, in one line.
    """
    rules = [] if sharing is None else parse_rules(sharing, len(layers))
    if experts is not None:
        num_experts, top_k, modules = _check_experts(experts)
        options = parse_options(experts, num_experts, top_k)
        ties = Ties(rules)
        for number, layer in enumerate(layers):
            _replace_feed_forwards(layer, num_experts, top_k, modules, options, embedding_size)
            for name in modules:
                ties.tie(number, name, layer.get_submodule(name))
            layer.register_forward_pre_hook(_pass_frame_mask)
    if low_rank is not None:
        replace_by_factors(layers, low_rank)
    return SharedLayers(list(layers), rules, layers.layer_drop_rate) if rules else layers


def _argument(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Value that the call gives to an argument, or the default; a wrong call fails itself."""
    signature = inspect.signature(function)
    position = list(signature.parameters).index(name)
    if position < len(args):
        return args[position]
    return kwargs.get(name, signature.parameters[name].default)


class MoeShareLayers(AbsEncoder):
    """What our encoders add to one of ESPnet's: the transformation of its layers.

    To be named before ESPnet's encoder among the bases. That encoder's own code builds the layers
    and runs them, so that all its arguments and outputs stay; without ``experts``, ``low_rank``
    and ``sharing`` nothing is changed.

    Args:
        experts: See :func:`transform_layers`.
        low_rank: See :mod:`espnet_moe_share.low_rank.replace`.
        sharing: See :mod:`espnet_moe_share.sharing.rules`.
        embedding_network: See :class:`espnet_moe_share.encoder.embedding_network.EmbeddingNetwork`;
            None: a router sees the input of its own layer only.
        gradient_checkpoint_layers: Layers that are run again in the backward pass instead of
            keeping what is inside them; 1 is the first, as in ESPnet's E-Branchformer, which has
            this argument (and 0 for its input layer) itself.

    Attributes:
        layer_class: Class of the layers that ESPnet's encoder builds, for a subclass to name: they
            are then shared one by one as they are built, which takes less memory. None: when all
            are there.

    Raises:
        ConfigurationError: The experts, the factors, a sharing rule or the embedding network cannot
            be as given, or not together with another option.
    """

    embed: torch.nn.Module | None
    encoders: MultiSequential
    layer_class: type[torch.nn.Module] | None = None

    def __init__(
        self,
        *args: Any,
        experts: dict[str, Any] | None = None,
        low_rank: list[dict[str, Any]] | None = None,
        sharing: list[dict[str, Any]] | None = None,
        embedding_network: dict[str, Any] | None = None,
        gradient_checkpoint_layers: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        checkpointed = [] if gradient_checkpoint_layers is None else gradient_checkpoint_layers
        espnet_has_it = _CHECKPOINT_KEY in inspect.signature(super().__init__).parameters
        if espnet_has_it:
            kwargs[_CHECKPOINT_KEY] = checkpointed
        # Factors take the biases of the dense layers over, which rules may leave individual.
        if self.layer_class is None or not sharing or low_rank is not None:
            super().__init__(*args, **kwargs)
        else:
            num_blocks = _argument("num_blocks", super().__init__, args, kwargs)
            ties = Ties(parse_rules(sharing, num_blocks))
            with ties.while_building(self.layer_class) as built:
                super().__init__(*args, **kwargs)
            if built != list(self.encoders):
                raise TypeError(
                    f"{type(self).__name__}: layer_class is {self.layer_class.__name__}, but the "
                    "layers are others; name their class, or leave layer_class out"
                )
        check_numbers(checkpointed, 0 if espnet_has_it else 1, len(self.encoders))
        if not espnet_has_it:
            checkpoint_layers(self.encoders, checkpointed)
        embedding_size = 0
        self.embedding_network: EmbeddingNetwork | None = None
        if embedding_network is not None:
            self._check_embedding_network(experts)
            self.embedding_network = EmbeddingNetwork.from_settings(
                embedding_network, self.output_size()
            )
            embedding_size = self.embedding_network.output_size()
        self.encoders = transform_layers(self.encoders, experts, low_rank, sharing, embedding_size)
        self._kept_projections = project_positions_once(self.encoders, checkpointed)
        if (experts, low_rank, sharing) != (None, None, None):
            save_memory(self.embed, self.encoders)

    def _check_embedding_network(self, experts: dict[str, Any] | None) -> None:
        if experts is None:
            raise ConfigurationError(
                "embedding_network is for routers, and there are none: set experts, too, or "
                "leave embedding_network out"
            )
        if getattr(self, "ctc_trim", False):
            raise ConfigurationError(
                "ctc_trim removes frames between the layers, for which embedding_network has "
                "computed embeddings; use one of them"
            )
        if 0 in getattr(self, _CHECKPOINT_KEY, []):
            raise ConfigurationError(
                "gradient_checkpoint_layers: 0, the input layer, would have to run a second time "
                "without the embedding_network that reads its output; leave 0 out"
            )
        if self.embed is None:
            # ESPnet's Transformer with input_layer null; our hook needs something to hang on.
            self.embed = torch.nn.Sequential()

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Run ESPnet's encoder, with the embedding network behind its input layer.

        Args:
            xs_pad: Features (B, L, input_size).
            ilens: Their lengths (B,).
            prev_states: Not used by ESPnet's encoders.
            masks: Bool (B, L), True on padding; None: made from ``ilens``.
            kwargs: Further arguments of ESPnet's encoder.

        Returns:
            ESPnet's outputs: encoder output (B, T, D), or a pair of it and intermediate outputs;
            its lengths (B,); None.
        """
        if masks is not None:  # not every encoder of ESPnet takes them
            kwargs["masks"] = masks

        def frame_mask() -> torch.Tensor:
            padding = make_pad_mask(ilens) if masks is None else masks
            return ~padding.unsqueeze(1).to(xs_pad.device)

        routers_see: AbstractContextManager[None] = nullcontext()
        if self.embedding_network is not None:
            assert self.embed is not None
            routers_see = self.embedding_network.seen_by_routers(
                self.embed, self.encoders, frame_mask
            )
        with self._kept_projections.within_forward(), routers_see:
            return super().forward(xs_pad, ilens, prev_states, **kwargs)
