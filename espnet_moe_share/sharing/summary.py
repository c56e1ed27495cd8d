"""Which parts of a stack of layers are one and the same in which layers, in few lines."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SharedParts:
    """Parts of a layer that the same layers have in common.

    Attributes:
        groups: Layers of each group, ascending; a group of one layer shares with none.
        modules: Paths below a layer: a module's if all it holds belongs here, else a tensor's.
        params: Stored parameters of all groups together.
    """

    groups: tuple[tuple[int, ...], ...]
    modules: tuple[str, ...]
    params: int


def _cover(paths: set[str], every_path: Iterable[str]) -> list[str]:
    """Replace paths by the shortest modules that hold nothing else."""
    others = set(every_path) - paths
    covering: dict[str, None] = {}
    for path in every_path:
        if path not in paths:
            continue
        parts = path.split(".")
        modules = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        covering[
            next(
                module
                for module in modules
                if not any(other.startswith(module + ".") for other in others)
            )
        ] = None
    return list(covering)


def summarize_sharing(layers: Sequence[torch.nn.Module]) -> list[SharedParts]:
    """Tell what is shared by comparing the tensors themselves, whoever tied them.

    Args:
        layers: Encoder layers, ours or ESPnet's. Buffers (running statistics) are looked at, too.

    Returns:
        One entry for every way in which layers are grouped, in the order of the layers' parts.
    """
    holders: dict[str, dict[int, list[int]]] = {}
    sizes: dict[str, dict[int, int]] = {}
    for number, layer in enumerate(layers):
        for path, tensor in layer.state_dict(keep_vars=True).items():
            holders.setdefault(path, {}).setdefault(id(tensor), []).append(number)
            counted = tensor.numel() if isinstance(tensor, torch.nn.Parameter) else 0
            sizes.setdefault(path, {})[id(tensor)] = counted
    by_groups: dict[tuple[tuple[int, ...], ...], set[str]] = defaultdict(set)
    for path, groups in holders.items():
        by_groups[tuple(map(tuple, groups.values()))].add(path)
    return [
        SharedParts(
            groups,
            tuple(_cover(paths, holders)),
            sum(sum(sizes[path].values()) for path in paths),
        )
        for groups, paths in by_groups.items()
    ]
