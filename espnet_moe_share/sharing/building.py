"""Sharing while layers are being built, so that memory is taken for little more than what is kept.

ESPnet builds every layer with weights of its own. Were they shared only when all are there, a
student would at first take more memory than its teacher, and leave the heap full of holes that
inference then spreads over (``benchmarks/README.md``).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from espnet_moe_share.sharing.layers import holder_of, shareable_tensors
from espnet_moe_share.sharing.rules import SharingRule


class Ties:
    """The first layer's tensors of every group, which the later layers take in place of their own.

    What rules say wrongly is not seen here; :class:`espnet_moe_share.sharing.layers.SharedLayers`
    checks everything when all layers are there.

    Args:
        rules: Which tensors are shared.
    """

    def __init__(self, rules: Sequence[SharingRule]) -> None:
        self._rules = rules
        self._first: dict[tuple[tuple[int, ...], str], torch.Tensor] = {}

    def tie(self, number: int, name: str, module: torch.nn.Module) -> None:
        """Tie what a part of a layer holds, in place; layers have to come in ascending order.

        Args:
            number: Of the layer.
            name: Of the part in the layer.
            module: The part.
        """
        for path, tensor in list(shareable_tensors(module)):
            group = self._group_of(number, f"{name}.{path}")
            if group is None:
                continue
            first = self._first.setdefault((group, f"{name}.{path}"), tensor)
            if first.shape == tensor.shape:
                holder_of(module, path)[path.rpartition(".")[2]] = first

    def _group_of(self, number: int, path: str) -> tuple[int, ...] | None:
        for rule in self._rules:
            if rule.covers(path):
                return next((group for group in rule.groups if number in group), None)
        return None

    @contextmanager
    def while_building(self, layer_class: type[torch.nn.Module]) -> Iterator[list[torch.nn.Module]]:
        """While it lasts, tie every part of a layer as soon as it is put in.

        Args:
            layer_class: Class of the encoder's layers, which are built one after the other.

        Yields:
            The layers that have been met.
        """
        builder = threading.get_ident()
        layers: list[torch.nn.Module] = []

        # PyTorch calls it for all modules, whichever thread builds them.
        def tie_part(layer: torch.nn.Module, name: str, part: torch.nn.Module | None) -> None:
            if type(layer) is not layer_class or threading.get_ident() != builder or part is None:
                return
            if not layers or layers[-1] is not layer:
                layers.append(layer)
            self.tie(len(layers) - 1, name, part)

        handle = register_module_module_registration_hook(tie_part)
        try:
            yield layers
        finally:
            handle.remove()
