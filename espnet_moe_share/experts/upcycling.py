"""Experts that start from the feed-forwards of a trained dense model ("upcycling").

After Komatsuzaki et al. 2023 (ICLR, arXiv 2212.05055, "Sparse Upcycling: Training
Mixture-of-Experts from Dense Checkpoints"): every expert begins as the dense feed-forward, routers
are new, all else is copied. Ours to add is what layers share (a mean, or one layer's), experts
from the feed-forwards of different layers, and a factor for top-1 gates. Those are raw
probabilities, which begin near 1 / E; the experts' second layer is multiplied by E, so that the
model begins near the dense one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.router import TopKRouter
from espnet_moe_share.low_rank.from_dense import (
    groups,
    initialize_from_dense,
    layer_at,
    layer_tensors,
    shared_value,
)
from espnet_moe_share.low_rank.linear import LowRankLinear
from espnet_moe_share.sharing.layers import layers_label

# path in our experts -> in ESPnet's PositionwiseFeedForward
_DENSE = {"w_1": "w_1.weight", "b_1": "w_1.bias", "w_2": "w_2.weight", "b_2": "w_2.bias"}


@dataclass(frozen=True)
class Upcycling:
    """How a student starts; see the options of ``espnet_moe_share.bin.upcycle``.

    Attributes:
        place: Which layer of a group gives what the group shares (0 the first, -1 the last);
            None: their mean.
        experts_from_layers: Whether the experts of a group of layers start from the feed-forwards
            of different layers of it; otherwise all start from the same, as ``place`` says.
        noise: Standard deviation of what is added to each expert's weights, relative to that of
            the weights.
        router_std: Standard deviation of a router's logits for input of variance 1.
        seed: Of noise and routers.
    """

    place: int | None = None
    experts_from_layers: bool = False
    noise: float = 0.01
    router_std: float = 0.1
    seed: int = 0


def upcycle_layers(
    layers: Sequence[torch.nn.Module],
    dense_layers: Sequence[torch.nn.Module],
    upcycling: Upcycling,
) -> dict[tuple[int, str], str]:
    """Give a student's encoder layers the values of a dense model's.

    Args:
        layers: With expert layers; changed in place.
        dense_layers: As many, with a feed-forward of the same size where there are experts.
        upcycling: How.

    Returns:
        (Number of a layer, path of a tensor in it) -> where its value comes from; a shared tensor
        at the first of its layers.

    Raises:
        ConfigurationError: The layers do not correspond, or there are no experts.
    """
    modules = [
        path for path, module in layers[0].named_modules() if isinstance(module, MixtureOfExperts)
    ]
    if not modules:
        raise ConfigurationError(
            "encoder_conf has no experts to start; without them espnet_moe_share.bin.svd_init "
            "starts low-rank and shared layers"
        )
    initialize_from_dense(layers, dense_layers, upcycling.place, left_out=modules)
    sources = _sources_of_the_rest(layers, modules, upcycling.place)
    generator = torch.Generator().manual_seed(upcycling.seed)
    with torch.no_grad():
        for module in modules:
            sources |= _fill_experts(layers, dense_layers, module, upcycling, generator)
            sources |= _fill_routers(layers, module, upcycling, generator)
    return sources


def _group_source(group: Sequence[int], place: int | None) -> str:
    if len(group) > 1 and place is None:
        return f"mean of layers {layers_label(group)}"
    return f"layer {layer_at(group, place or 0)}"


def _sources_of_the_rest(
    layers: Sequence[torch.nn.Module], modules: Sequence[str], place: int | None
) -> dict[tuple[int, str], str]:
    tensors = [layer_tensors(layer, modules) for layer in layers]
    factors = tuple(
        f"{path}.{factor}.weight"
        for path, module in layers[0].named_modules()
        if isinstance(module, LowRankLinear)
        for factor in ("up", "down")
    )
    sources = {}
    for path, tensor in tensors[0].items():
        for owner, group in groups(tensors, path).items():
            if path in factors:
                source = f"singular value decomposition, layers {layers_label(group)}"
            else:
                # counters are no mean
                source = _group_source(group, place if tensor.is_floating_point() else 0)
            sources[owner, path] = source
    return sources


def _expert_layers(group: Sequence[int], num_experts: int) -> list[int]:
    """Layer that each expert starts from: evenly over the group, ascending."""
    return [group[(2 * e + 1) * len(group) // (2 * num_experts)] for e in range(num_experts)]


def _dense_tensors(
    layers: Sequence[torch.nn.Module],
    dense_layers: Sequence[torch.nn.Module],
    module: str,
    name: str,
) -> list[torch.Tensor]:
    """Tensor of every dense layer's feed-forward that corresponds to one of the experts'."""
    path = f"{module}.{_DENSE[name]}"
    found = [layer_tensors(layer).get(path) for layer in dense_layers]
    wanted = tuple(layers[0].get_parameter(f"{module}.experts.{name}").shape[1:])
    for number, tensor in enumerate(found):
        if tensor is None:
            raise ConfigurationError(
                f"encoder layer {number} of the dense model has no '{path}' for experts to start "
                "from; a dense, linear feed-forward is needed there"
            )
        if tuple(tensor.shape) != wanted:
            raise ConfigurationError(
                f"encoder layer {number}: '{path}' is {tuple(tensor.shape)} in the dense model "
                f"and {wanted} in each expert of the new one"
            )
        if not tensor.isfinite().all():
            raise ConfigurationError(
                f"encoder layer {number}: '{path}' of the dense model is not finite"
            )
    return [tensor for tensor in found if tensor is not None]


def _fill_experts(
    layers: Sequence[torch.nn.Module],
    dense_layers: Sequence[torch.nn.Module],
    module: str,
    upcycling: Upcycling,
    generator: torch.Generator,
) -> dict[tuple[int, str], str]:
    sources = {}
    tensors = [layer_tensors(layer) for layer in layers]
    moe = layers[0].get_submodule(module)
    assert isinstance(moe, MixtureOfExperts)
    # Hidden units are numbered by w_1: all four tensors of an expert come from the same layers.
    pools = groups(tensors, f"{module}.experts.w_1")
    pool_of = {layer: pool for pool in pools.values() for layer in pool}
    for name in _DENSE:
        path = f"{module}.experts.{name}"
        values = _dense_tensors(layers, dense_layers, module, name)
        for owner in groups(tensors, path):
            parameter = tensors[owner][path]
            num_experts = parameter.size(0)
            pool = pool_of[owner]
            if upcycling.experts_from_layers:
                chosen = _expert_layers(pool, num_experts)
                stacked = torch.stack([values[layer].double() for layer in chosen])
                source = f"of its experts: layers {', '.join(map(str, chosen))}"
            else:
                value = shared_value(values, pool, upcycling.place)
                stacked = value.double().expand(num_experts, *value.shape).clone()
                source = f"all experts: {_group_source(pool, upcycling.place)}"
            if upcycling.noise > 0 and name.startswith("w"):
                scale = upcycling.noise * stacked.std(dim=(1, 2), keepdim=True)
                stacked += scale * torch.randn(
                    stacked.shape, generator=generator, dtype=torch.float64
                )
                source += f", with noise of {upcycling.noise:g} of its standard deviation"
            if moe.router.top_k == 1 and name.endswith("2"):
                stacked *= num_experts
                source += f", times {num_experts}"
            parameter.copy_(stacked)
            sources[owner, path] = source
    return sources


def _fill_routers(
    layers: Sequence[torch.nn.Module],
    module: str,
    upcycling: Upcycling,
    generator: torch.Generator,
) -> dict[tuple[int, str], str]:
    tensors = [layer_tensors(layer) for layer in layers]
    sources = {}
    # whose logits may have another size for the same weights
    own_router = type(layers[0].get_submodule(f"{module}.router")) is not TopKRouter
    for path in tensors[0]:
        if not path.startswith(f"{module}.") or path.startswith(f"{module}.experts."):
            continue
        for owner in groups(tensors, path):
            tensor = tensors[owner][path]
            if own_router and path.startswith(f"{module}.router."):
                sources[owner, path] = "as the training would draw it"
            elif path == f"{module}.router.weight":
                std = upcycling.router_std * tensor.size(1) ** -0.5
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(std * drawn)
                sources[owner, path] = f"new, logits of standard deviation {upcycling.router_std:g}"
            else:
                sources[owner, path] = "new, zero"
                tensor.zero_()
    return sources
