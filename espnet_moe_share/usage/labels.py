"""Which experts serve which label: tokens of frames, speakers or languages of utterances."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from espnet_moe_share.experts.routing import Routing
from espnet_moe_share.usage.tally import entropy


class ChoicesByLabel:
    """Sums over utterances of the choices that frames of each label made."""

    def __init__(self) -> None:
        self._frames: dict[str, int] = {}
        self._choices: dict[str, dict[str, torch.Tensor]] = {}  # layer -> label -> (E,)

    def add(self, routings: Mapping[str, Routing], labels: str | Sequence[str]) -> None:
        """Add an utterance.

        Args:
            routings: Path of the expert layer -> what it decided, N frames.
            labels: The label of all frames, or N labels.
        """
        frames = {routing.expert_ids_NK.size(0) for routing in routings.values()}
        if isinstance(labels, str):
            labels = [labels] * max(frames, default=0)
        names = sorted(set(labels))
        number_of = {name: number for number, name in enumerate(names)}
        numbers_N = torch.tensor([number_of[label] for label in labels], dtype=torch.long)
        for name, count in zip(names, numbers_N.bincount(minlength=len(names)).tolist()):
            self._frames[name] = self._frames.get(name, 0) + count
        for path, routing in routings.items():
            ids_NK = routing.expert_ids_NK.cpu()
            num_experts = routing.logits_NE.size(1)
            pairs = (numbers_N.unsqueeze(1) * num_experts + ids_NK).flatten()
            counts = pairs.bincount(minlength=len(names) * num_experts).view(-1, num_experts)
            layer = self._choices.setdefault(path, {})
            for name, counts_E in zip(names, counts):
                layer[name] = layer.get(name, torch.zeros(num_experts)).double() + counts_E

    def summary(self) -> dict[str, Any]:
        """Say what the sums mean.

        Returns:
            ``labels``: for each, most frames first, its name ``label``, its ``frames`` and its
            ``load``: expert layer -> share of the label's choices per expert.
            ``explained``: expert layer -> how much the label says about the choice: their mutual
            information divided by the entropy of the choice, 0 (nothing) to 1 (all). With few
            frames for each label it comes out too large.
        """
        order = sorted(self._frames, key=lambda name: (-self._frames[name], name))
        labels = [
            {
                "label": name,
                "frames": self._frames[name],
                "load": {
                    path: (layer[name] / layer[name].sum().clamp(min=1)).tolist()
                    for path, layer in self._choices.items()
                },
            }
            for name in order
        ]
        explained = {path: _explained(layer) for path, layer in self._choices.items()}
        return {"labels": labels, "explained": explained}


def _explained(choices: Mapping[str, torch.Tensor]) -> float:
    joint_LE = torch.stack(list(choices.values()))
    h_choice = entropy(joint_LE.sum(dim=0))
    if h_choice == 0:
        return 0.0
    shared = h_choice + entropy(joint_LE.sum(dim=1)) - entropy(joint_LE.flatten())
    return float(shared / h_choice)
