"""The knob ``low_rank``: which weights of every encoder layer become products of two factors.

It is a list of entries, each a mapping with the keys

``modules``
    Patterns over the paths of a layer's linear layers and 1x1 convolutions, such as
    ``self_attn.linear_q`` or ``conv_module.pointwise_conv*``. ``*`` also matches dots. A pattern
    that names a module (``self_attn``) covers everything below it.
``rank``
    Rank of these weights, from 1 to the smaller side of the weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from espnet2.asr.layers.cgmlp import ConvolutionalSpatialGatingUnit

from espnet_moe_share.checks import check_mapping, check_mapping_keys, check_names
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.low_rank.linear import LowRankLinear
from espnet_moe_share.sharing.rules import matches

_KEYS = ("modules", "rank")


def _is_pointwise(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Conv1d)
        and (module.kernel_size, module.stride, module.padding) == ((1,), (1,), (0,))
        and module.groups == 1
    )


def _paths_of(layer: torch.nn.Module, kind: type[torch.nn.Module]) -> list[str]:
    return [path for path, module in layer.named_modules() if isinstance(module, kind)]


def _replaceable(layer: torch.nn.Module) -> dict[str, torch.nn.Linear | torch.nn.Conv1d]:
    """Path -> linear layer or 1x1 convolution, but for those of expert layers."""
    # The gate of an E-Branchformer sets its linear layer's weight itself, to pass everything on.
    without = _paths_of(layer, MixtureOfExperts) + _paths_of(layer, ConvolutionalSpatialGatingUnit)
    return {
        path: module
        for path, module in layer.named_modules()
        if (isinstance(module, torch.nn.Linear) or _is_pointwise(module))
        and not any(matches(other, path) for other in without)
    }


def _check_entry(name: str, entry: Any) -> None:
    check_mapping(name, entry, f"with {' and '.join(_KEYS)}")
    check_mapping_keys(name, entry, _KEYS, required=_KEYS)
    check_names(name, "modules", entry["modules"], "[self_attn.linear_q]")
    rank = entry["rank"]
    if type(rank) is not int or rank < 1:
        raise ConfigurationError(f"{name}: 'rank' must be 1 or more, not {rank!r}")


def _select(name: str, patterns: Sequence[str], layer: torch.nn.Module) -> list[str]:
    """Paths that an entry's patterns name."""
    experts = [
        f"{path}.{weight}"
        for path in _paths_of(layer, MixtureOfExperts)
        for weight, _ in layer.get_submodule(path).named_parameters()
    ]
    paths = list(_replaceable(layer))
    for pattern in patterns:
        reached = next((path for path in experts if matches(pattern, path)), None)
        if reached is not None:
            raise ConfigurationError(
                f"{name}: '{pattern}' in 'modules' reaches '{reached}', but experts and routers "
                f"keep their full rank; name others of {', '.join(paths)}"
            )
        if not any(matches(pattern, path) for path in paths):
            raise ConfigurationError(
                f"{name}: '{pattern}' in 'modules' matches no linear layer or 1x1 convolution "
                f"of an encoder layer; those are {', '.join(paths)}"
            )
    return [path for path in paths if any(matches(pattern, path) for pattern in patterns)]


def _replace_in_layer(layer: torch.nn.Module, entries: Sequence[Mapping[str, Any]]) -> None:
    dense = _replaceable(layer)
    chosen: dict[str, int] = {}  # path -> number of the entry
    for number, entry in enumerate(entries):
        name, rank = f"low_rank[{number}]", entry["rank"]
        for path in _select(name, entry["modules"], layer):
            if path in chosen:
                raise ConfigurationError(
                    f"{name} names '{path}', which low_rank[{chosen[path]}] names already"
                )
            outputs, inputs = dense[path].weight.shape[:2]
            if rank > min(outputs, inputs):
                raise ConfigurationError(
                    f"{name}: 'rank' {rank} is more than {min(outputs, inputs)}, "
                    f"the full rank of '{path}' ({outputs} x {inputs})"
                )
            chosen[path] = number
    for path, number in chosen.items():
        parent, _, child = path.rpartition(".")
        factors = LowRankLinear(dense[path], entries[number]["rank"])
        setattr(layer.get_submodule(parent), child, factors)


def replace_by_factors(layers: Sequence[torch.nn.Module], low_rank: Any) -> None:
    """Replace chosen linear layers and 1x1 convolutions of every layer by two factors each.

    Args:
        layers: Encoder layers; changed in place. Experts and routers keep their full rank.
        low_rank: The list of entries, as read; see the module's docstring.

    Raises:
        ConfigurationError: A value that cannot be, a pattern that matches nothing or reaches into
            experts, a weight in two entries, or a rank above a weight's full rank.
    """
    if not isinstance(low_rank, list):
        raise ConfigurationError(
            f"low_rank must be a list of mappings with modules and rank, not {low_rank!r}"
        )
    for number, entry in enumerate(low_rank):
        _check_entry(f"low_rank[{number}]", entry)
    for layer in layers:
        _replace_in_layer(layer, low_rank)
