"""Encoder layers with factors and shared tensors, started from those of a dense model.

Every tensor takes the value that is nearest to the dense layers' own, in the sense of least
squares: factors by singular value decomposition (:mod:`espnet_moe_share.low_rank.svd`), a tensor
that layers share as their mean, unless one layer of each group is chosen to give it.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.low_rank.linear import LowRankLinear
from espnet_moe_share.low_rank.svd import fit_factors


@dataclass(frozen=True)
class Reconstruction:
    """How far a weight of one layer is from the dense layer's W.

    Attributes:
        layer: Number of the layer, from 0.
        path: Path of the weight in the dense layer, such as ``self_attn.linear_q.weight``.
        shape: Shape of W.
        rank: Rank of the factors; None: the weight is not factored but shared.
        error: |W - W'| / |W|, Frobenius norms; W' is the product of the factors or what is shared.
    """

    layer: int
    path: str
    shape: tuple[int, ...]
    rank: int | None
    error: float


def layer_tensors(
    layer: torch.nn.Module, left_out: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a layer by path, without those below the modules ``left_out``."""
    tensors = itertools.chain(layer.named_parameters(), layer.named_buffers())
    below = tuple(f"{module}." for module in left_out)
    return {path: tensor for path, tensor in tensors if not path.startswith(below)}


def _factored(layer: torch.nn.Module) -> dict[str, LowRankLinear]:
    return {
        path: module for path, module in layer.named_modules() if isinstance(module, LowRankLinear)
    }


def _unfactored(layer: torch.nn.Module, left_out: Collection[str] = ()) -> dict[str, str]:
    """Paths of all tensors but factors -> their paths in a dense layer."""
    paths = {path: path for path in layer_tensors(layer, left_out)}
    for path in _factored(layer):
        del paths[f"{path}.down.weight"], paths[f"{path}.up.weight"]
        if f"{path}.up.bias" in paths:
            paths[f"{path}.up.bias"] = f"{path}.bias"
    return paths


def _full_tensors(
    layer: torch.nn.Module, left_out: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Tensors by the paths that they have in a dense layer, with products in place of factors."""
    tensors = layer_tensors(layer)
    full = {dense_path: tensors[path] for path, dense_path in _unfactored(layer, left_out).items()}
    products = {f"{path}.weight": factors.weight for path, factors in _factored(layer).items()}
    return {path: tensor.detach() for path, tensor in {**full, **products}.items()}


def _check(dense: dict[str, torch.Tensor], own: dict[str, torch.Tensor], layer: int) -> None:
    for path in sorted(dense.keys() ^ own.keys()):
        has, lacks = ("dense", "new") if path in dense else ("new", "dense")
        raise ConfigurationError(
            f"encoder layer {layer} of the {has} model has '{path}', that of the {lacks} model has "
            "not; both need the same layers apart from low_rank and sharing"
        )
    for path, tensor in own.items():
        if tensor.shape != dense[path].shape:
            raise ConfigurationError(
                f"encoder layer {layer}: '{path}' is {tuple(dense[path].shape)} in the dense model "
                f"and {tuple(tensor.shape)} in the new one"
            )
        if not dense[path].isfinite().all():
            raise ConfigurationError(
                f"encoder layer {layer}: '{path}' of the dense model has values that are not finite"
            )


def owners(tensors: Sequence[dict[str, torch.Tensor]], path: str) -> list[int]:
    """For each layer the first one that has the same tensor at this path."""
    identities = [id(layer[path]) for layer in tensors]
    return [identities.index(identity) for identity in identities]


def initialize_from_dense(
    layers: Sequence[torch.nn.Module],
    dense_layers: Sequence[torch.nn.Module],
    place: int | None = None,
    left_out: Collection[str] = (),
) -> list[Reconstruction]:
    """Give layers the values nearest to those of a dense model's layers.

    Args:
        layers: With factors, shared tensors or both; changed in place. Tensors of a single layer
            that are no factors become the dense layer's.
        dense_layers: As many, of the same sizes.
        place: Which layer of each group gives a tensor that they share without factors (0 the
            first, -1 the last); None: their mean.
        left_out: Modules of the layers that are not touched, and need not correspond.

    Returns:
        One element for each layer and each of its weights (two dimensions or more) that is
        factored or shared, by path, then by layer.

    Raises:
        ConfigurationError: The layers do not correspond, a group has no such ``place``, or groups
            of layers that share one factor cross those that share the other.
    """
    if len(layers) != len(dense_layers):
        raise ConfigurationError(
            f"the dense model has {len(dense_layers)} encoder layers, the new one {len(layers)}; "
            "both need as many"
        )
    dense = [_full_tensors(layer, left_out) for layer in dense_layers]
    for number, layer in enumerate(layers):
        _check(dense[number], _full_tensors(layer, left_out), number)
    tensors = [layer_tensors(layer) for layer in layers]
    with torch.no_grad():
        for path, dense_path in _unfactored(layers[0], left_out).items():
            values = [layer[dense_path] for layer in dense]
            for owner, group in groups(tensors, path).items():
                tensors[owner][path].copy_(shared_value(values, group, place))
        for path, factors in _factored(layers[0]).items():
            weights = [layer[f"{path}.weight"] for layer in dense]
            _take_factors(tensors, path, weights, factors.down.weight.size(0))
    return _reconstructions(layers, dense, left_out)


def groups(tensors: Sequence[dict[str, torch.Tensor]], path: str) -> dict[int, list[int]]:
    """First layer of each group of layers that share the tensor at this path -> the group."""
    found: dict[int, list[int]] = {}
    for layer, owner in enumerate(owners(tensors, path)):
        found.setdefault(owner, []).append(layer)
    return found


def shared_value(
    values: Sequence[torch.Tensor], group: Sequence[int], place: int | None
) -> torch.Tensor:
    """Return what a group of layers shares of the dense layers' values.

    Args:
        values: Of all dense layers.
        group: Layers that share it.
        place: Of the layer of the group that gives it; None: their mean.

    Raises:
        ConfigurationError: The group has no such place.
    """
    # counters of batches are integers, and the same in all layers
    if place is None and values[0].is_floating_point():
        return torch.stack([values[layer] for layer in group]).double().mean(0)
    return values[layer_at(group, place or 0)]


def layer_at(group: Sequence[int], place: int) -> int:
    """Return the layer at a place of a group, 0 the first, -1 the last.

    Raises:
        ConfigurationError: The group has no such place.
    """
    if not -len(group) <= place < len(group) and len(group) > 1:
        raise ConfigurationError(
            f"layers {', '.join(map(str, group))} share a tensor: there is no place {place} among "
            f"these {len(group)}"
        )
    return group[place] if len(group) > 1 else group[0]


def _take_factors(
    tensors: Sequence[dict[str, torch.Tensor]],
    path: str,
    weights: Sequence[torch.Tensor],
    rank: int,
) -> None:
    paths = {factor: f"{path}.{factor}.weight" for factor in ("up", "down")}
    layers = {factor: owners(tensors, paths[factor]) for factor in paths}
    try:
        ups, downs = fit_factors(
            [weight.flatten(1) for weight in weights], layers["up"], layers["down"], rank
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"'{path}': {error}") from None
    for factor, found in (("up", ups), ("down", downs)):
        for owner, value in found.items():
            parameter = tensors[owner][paths[factor]]
            parameter.copy_(value.view_as(parameter))


def _reconstructions(
    layers: Sequence[torch.nn.Module],
    dense: Sequence[dict[str, torch.Tensor]],
    left_out: Collection[str],
) -> list[Reconstruction]:
    ranks = {
        f"{path}.weight": factors.down.weight.size(0)
        for path, factors in _factored(layers[0]).items()
    }
    tensors = [layer_tensors(layer) for layer in layers]
    shared = {
        dense_path
        for path, dense_path in _unfactored(layers[0], left_out).items()
        if len(set(owners(tensors, path))) < len(layers)
    }
    found = [_full_tensors(layer, left_out) for layer in layers]
    return [
        Reconstruction(
            layer=number,
            path=path,
            shape=tuple(weight.shape),
            rank=ranks.get(path),
            error=_relative_distance(found[number][path], weights[path]),
        )
        for path, weight in dense[0].items()
        if weight.dim() >= 2 and path in {*ranks, *shared}
        for number, weights in enumerate(dense)
    ]


def _relative_distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    size = wanted.double().norm()
    distance = (found.double() - wanted.double()).norm()
    return float(distance / size) if size > 0 else float(distance > 0)
