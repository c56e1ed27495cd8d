"""How a trained model uses its experts: tallies over many utterances, and what they say."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import torch

from espnet_moe_share.experts.routing import Routing


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of a distribution given as counts or shares, over the last dimension."""
    total = shares.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
    return torch.special.entr(shares / total).sum(dim=-1)


def mutual_information(joint_EF: torch.Tensor) -> float:
    """Normalised mutual information of two choices: I(a; b) / mean(H(a), H(b)).

    Args:
        joint_EF: How often a = e and b = f came together.

    Returns:
        0 when one says nothing about the other (or neither varies), 1 when each determines the
        other, whatever the experts' numbers.
    """
    h_a, h_b = entropy(joint_EF.sum(dim=1)), entropy(joint_EF.sum(dim=0))
    if h_a + h_b == 0:
        return 0.0
    return float(2 * (h_a + h_b - entropy(joint_EF.flatten())) / (h_a + h_b))


class ExpertUsage:
    """Sums over utterances of what the routers of a model decided.

    All sums are over frames, so that it does not matter in which batches the frames came.
    """

    def __init__(self) -> None:
        self._frames: dict[str, int] = {}
        self._choices: dict[str, torch.Tensor] = {}  # (E,)
        self._probabilities: dict[str, torch.Tensor] = {}  # (E,)
        self._entropy: dict[str, float] = {}
        self._joint: dict[tuple[str, str], torch.Tensor] = {}  # (E, E) of first choices

    def add(self, records: Mapping[str, Sequence[Routing]]) -> None:
        """Add what :func:`espnet_moe_share.experts.recording.record_routing` recorded."""
        first: dict[str, torch.Tensor] = {}
        for path, routings in records.items():
            for routing in routings:
                p_NE = routing.logits_NE.detach().double().softmax(dim=-1)
                num_experts = p_NE.size(1)
                chosen_E = routing.expert_ids_NK.flatten().bincount(minlength=num_experts)
                zero_E = torch.zeros(num_experts, dtype=torch.double)
                self._frames[path] = self._frames.get(path, 0) + p_NE.size(0)
                self._choices[path] = self._choices.get(path, zero_E) + chosen_E.cpu()
                self._probabilities[path] = (
                    self._probabilities.get(path, zero_E) + p_NE.sum(0).cpu()
                )
                self._entropy[path] = self._entropy.get(path, 0.0) + float(entropy(p_NE).sum())
            if routings:
                ids = [
                    (routing.expert_ids_NK[:, 0], routing.logits_NE.size(1)) for routing in routings
                ]
                first[path] = torch.cat([ids_N for ids_N, _ in ids])
        for a, b in combinations(records, 2):
            if a in first and b in first and first[a].numel() == first[b].numel():
                e, f = self._choices[a].numel(), self._choices[b].numel()
                pairs = (first[a] * f + first[b]).bincount(minlength=e * f).view(e, f).cpu()
                self._joint[a, b] = self._joint.get((a, b), torch.zeros(e, f)).double() + pairs

    def summary(self) -> dict[str, Any]:
        """Say what the sums mean.

        Returns:
            ``layers``: for each expert layer its ``name``, ``num_experts``, ``frames``, ``load``
            (share of the choices per expert), ``load_entropy`` (of that share; log E when even),
            ``routing_entropy`` (mean over frames of the entropy of the router's probabilities: 0
            when it is sure of every frame) and ``mean_probability`` (per expert).
            ``neighbours``: for each two layers that follow one another ``names``, ``agreement``
            (share of frames whose first choice has the same number in both) and
            ``mutual_information`` (:func:`mutual_information` of the two choices, which does not
            depend on how either layer numbers its experts). Entropies are in nats.
        """
        layers = [
            {
                "name": path,
                "num_experts": choices_E.numel(),
                "frames": self._frames[path],
                "load": (choices_E / choices_E.sum().clamp(min=1)).tolist(),
                "load_entropy": float(entropy(choices_E)),
                "routing_entropy": self._entropy[path] / max(self._frames[path], 1),
                "mean_probability": (
                    self._probabilities[path] / max(self._frames[path], 1)
                ).tolist(),
            }
            for path, choices_E in self._choices.items()
        ]
        neighbours = [
            {"names": list(paths), **_agreement(self._joint[paths])}
            for paths in _neighbours(list(self._choices))
            if paths in self._joint
        ]
        return {"layers": layers, "neighbours": neighbours}

    def pairs(self) -> list[dict[str, Any]]:
        """Compare every two layers, as :meth:`summary` does neighbours."""
        return [{"names": list(paths), **_agreement(joint)} for paths, joint in self._joint.items()]


def _agreement(joint_EF: torch.Tensor) -> dict[str, float]:
    same = joint_EF.diagonal().sum() / joint_EF.sum().clamp(min=1)
    return {"agreement": float(same), "mutual_information": mutual_information(joint_EF)}


def _neighbours(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of the same module in layers that follow one another."""
    by_module: dict[str, list[str]] = {}
    for path in paths:
        by_module.setdefault(path.rpartition(".")[2], []).append(path)
    return [pair for same in by_module.values() for pair in pairwise(same)]
