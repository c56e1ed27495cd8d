"""How often each expert was chosen in the training steps of an epoch."""

from collections.abc import Mapping

import torch

from espnet_moe_share.experts.counts import RoutingCounts


class EpochLoad:
    """Sums over training steps, beside the model: neither in its state nor part of any loss."""

    def __init__(self) -> None:
        self._choices: dict[str, torch.Tensor] = {}  # (E,), where the model is

    def reset(self) -> None:
        """Forget the steps before, at the beginning of an epoch."""
        self._choices = {}

    def add(self, counts: Mapping[str, RoutingCounts]) -> None:
        """Add a step: path of the expert layer -> its counts."""
        for path, layer in counts.items():
            before = self._choices.get(path)
            self._choices[path] = layer.choices_E if before is None else before + layer.choices_E

    def shares(self) -> dict[str, list[float]]:
        """Path of the expert layer -> share of its choices per expert (E); {} without a step."""
        return {
            path: (choices_E / choices_E.sum().clamp(min=1)).tolist()
            for path, choices_E in self._choices.items()
        }
