"""Encoder layers with factors and shared tensors, started from those of a dense model.

Every tensor takes the value that is nearest to the dense layers' own, in the sense of least
squares: factors by singular value decomposition (:mod:`espnet_moe_share.low_rank.svd`), a tensor
that layers share as their mean.
"""

import itertools
from collections.abc import Sequence
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


def _tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(itertools.chain(layer.named_parameters(), layer.named_buffers()))


def _factored(layer: torch.nn.Module) -> dict[str, LowRankLinear]:
    return {
        path: module for path, module in layer.named_modules() if isinstance(module, LowRankLinear)
    }


def _unfactored(layer: torch.nn.Module) -> dict[str, str]:
    """Paths of all tensors but factors -> their paths in a dense layer."""
    paths = {path: path for path in _tensors(layer)}
    for path in _factored(layer):
        del paths[f"{path}.down.weight"], paths[f"{path}.up.weight"]
        if f"{path}.up.bias" in paths:
            paths[f"{path}.up.bias"] = f"{path}.bias"
    return paths


def _full_tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors by the paths that they have in a dense layer, with products in place of factors."""
    tensors = _tensors(layer)
    full = {dense_path: tensors[path] for path, dense_path in _unfactored(layer).items()}
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


def _owners(tensors: Sequence[dict[str, torch.Tensor]], path: str) -> list[int]:
    """For each layer the first one that has the same tensor at this path."""
    identities = [id(layer[path]) for layer in tensors]
    return [identities.index(identity) for identity in identities]


def initialize_from_dense(
    layers: Sequence[torch.nn.Module], dense_layers: Sequence[torch.nn.Module]
) -> list[Reconstruction]:
    """Give layers the values nearest to those of a dense model's layers.

    Args:
        layers: With factors, shared tensors or both; changed in place. Tensors of a single layer
            that are no factors become the dense layer's.
        dense_layers: As many, of the same sizes.

    Returns:
        One element for each layer and each of its weights (two dimensions or more) that is
        factored or shared, by path, then by layer.

    Raises:
        ConfigurationError: The layers do not correspond, or groups of layers that share one factor
            cross those that share the other.
    """
    if len(layers) != len(dense_layers):
        raise ConfigurationError(
            f"the dense model has {len(dense_layers)} encoder layers, the new one {len(layers)}; "
            "both need as many"
        )
    dense = [_full_tensors(layer) for layer in dense_layers]
    for number, layer in enumerate(layers):
        _check(dense[number], _full_tensors(layer), number)
    tensors = [_tensors(layer) for layer in layers]
    with torch.no_grad():
        for path, dense_path in _unfactored(layers[0]).items():
            _take_mean(tensors, path, [layer[dense_path] for layer in dense])
        for path, factors in _factored(layers[0]).items():
            weights = [layer[f"{path}.weight"] for layer in dense]
            _take_factors(tensors, path, weights, factors.down.weight.size(0))
    return _reconstructions(layers, dense)


def _take_mean(
    tensors: Sequence[dict[str, torch.Tensor]], path: str, values: Sequence[torch.Tensor]
) -> None:
    owners = _owners(tensors, path)
    for owner in set(owners):
        group = [value for value, one in zip(values, owners) if one == owner]
        # counters of batches are integers, and the same in all layers
        average = torch.stack(group).double().mean(0) if group[0].is_floating_point() else group[0]
        tensors[owner][path].copy_(average)


def _take_factors(
    tensors: Sequence[dict[str, torch.Tensor]],
    path: str,
    weights: Sequence[torch.Tensor],
    rank: int,
) -> None:
    paths = {factor: f"{path}.{factor}.weight" for factor in ("up", "down")}
    owners = {factor: _owners(tensors, paths[factor]) for factor in paths}
    try:
        ups, downs = fit_factors(
            [weight.flatten(1) for weight in weights], owners["up"], owners["down"], rank
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"'{path}': {error}") from None
    for factor, found in (("up", ups), ("down", downs)):
        for owner, value in found.items():
            parameter = tensors[owner][paths[factor]]
            parameter.copy_(value.view_as(parameter))


def _reconstructions(
    layers: Sequence[torch.nn.Module], dense: Sequence[dict[str, torch.Tensor]]
) -> list[Reconstruction]:
    ranks = {
        f"{path}.weight": factors.down.weight.size(0)
        for path, factors in _factored(layers[0]).items()
    }
    tensors = [_tensors(layer) for layer in layers]
    shared = {
        dense_path
        for path, dense_path in _unfactored(layers[0]).items()
        if len(set(_owners(tensors, path))) < len(layers)
    }
    found = [_full_tensors(layer) for layer in layers]
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
