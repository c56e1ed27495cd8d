"""Losses on what the routers decided: pure functions, unweighted, one formula each.

All take one recorded call of every expert layer (:mod:`espnet_moe_share.experts.routing`; one
without frames for a layer that did not run) and return a scalar tensor with gradient, in the dtype
of the logits (float32 or float64).
Notation: p = softmax of the logits over the E experts, f_e = share of the N * K choices that went
to expert e (no gradient), P_e = mean of p_e over the N frames.

``counts`` says which frames those are: by default those of the calls. Where a batch is divided
among processes, give the counts of all processes: f and N are then the whole batch's, while the
sums over frames remain this process's own, and the results of all processes add up to the loss of
the whole batch. So do their gradients, since every loss is linear in such sums once f is a number
(and the importance loss made so).

There is no matrix product here: autocast would compute it in half precision.
"""

from collections.abc import Sequence

import torch

from espnet_moe_share.experts.counts import RoutingCounts, add_counts, count_routing
from espnet_moe_share.experts.routing import Routing


def _balance(routings: Sequence[Routing], counts: Sequence[RoutingCounts]) -> torch.Tensor:
    """E * sum_e f_e P_e over the frames of all given calls; 0 where there are none."""
    p_NE = torch.cat([routing.probabilities_NE for routing in routings])
    total = add_counts(counts)
    shares_E = total.choices_E.to(p_NE.dtype) / total.choices_E.sum().clamp(min=1)
    return p_NE.size(1) * (shares_E * p_NE.sum(dim=0)).sum() / total.frames.clamp(min=1)


def layer_balance_loss(
    routings: Sequence[Routing], counts: Sequence[RoutingCounts] | None = None
) -> torch.Tensor:
    """Load balance of every layer by itself: sum over layers of E * sum_e f_e P_e.

    Fedus et al. 2022 (Switch Transformers, formula 4); its minimum is the number of layers,
    reached when every layer spreads its frames evenly. With the counts of all processes it is the
    global-batch loss of Qiu et al. 2025 (arXiv 2501.11873).
    """
    counts = counts or [count_routing(routing) for routing in routings]
    layers = zip(routings, counts, strict=True)
    return torch.stack([_balance([routing], [layer]) for routing, layer in layers]).sum()


def pool_balance_loss(
    routings: Sequence[Routing], counts: Sequence[RoutingCounts] | None = None
) -> torch.Tensor:
    """Load balance of every pool of experts: as for a layer, over all layers that share the pool.

    f and P are taken over all frames of all those layers together (UniPool, arXiv 2605.06665), so
    that a layer may prefer some experts as long as none is idle everywhere. Scaled by the number
    of the pool's layers that ran, so that one weight suits both losses: the minimum is again the
    number of layers. Without sharing it equals :func:`layer_balance_loss`.
    """
    counts = counts or [count_routing(routing) for routing in routings]
    pools: dict[int, list[tuple[Routing, RoutingCounts]]] = {}
    for routing, layer in zip(routings, counts, strict=True):
        pools.setdefault(id(routing.experts), []).append((routing, layer))
    losses = []
    for pool in pools.values():
        pool_routings, pool_counts = zip(*pool)
        layers_that_ran = sum(layer.frames > 0 for layer in pool_counts)
        losses.append(layers_that_ran * _balance(pool_routings, pool_counts))
    return torch.stack(losses).sum()


def router_z_loss(
    routings: Sequence[Routing], counts: Sequence[RoutingCounts] | None = None
) -> torch.Tensor:
    """Size of the logits: sum over layers of the mean over frames of (log sum_e exp z_e)^2.

    Zoph et al. 2022 (ST-MoE, formula 5).
    """
    counts = counts or [count_routing(routing) for routing in routings]
    return torch.stack(
        [
            routing.logits_NE.logsumexp(dim=-1).square().sum() / layer.frames.clamp(min=1)
            for routing, layer in zip(routings, counts, strict=True)
        ]
    ).sum()


def sparsity_loss(
    routings: Sequence[Routing], counts: Sequence[RoutingCounts] | None = None
) -> torch.Tensor:
    """Sparsity of the probabilities: sum over layers of the mean over frames of |p / |p|_2|_1.

    You et al. 2021 (SpeechMoE, sparsity L1 loss), summed over layers as in the authors'
    tencent-ailab/3m-asr. Its minimum is the number of layers, reached when every router is sure of
    every frame; a layer whose experts are all alike to it has sqrt(E).
    """
    counts = counts or [count_routing(routing) for routing in routings]
    layers = zip(routings, counts, strict=True)
    return torch.stack(
        [_sparsity(routing) / layer.frames.clamp(min=1) for routing, layer in layers]
    ).sum()


def _sparsity(routing: Routing) -> torch.Tensor:
    p_NE = routing.probabilities_NE
    return (p_NE.sum(dim=-1) / p_NE.square().sum(dim=-1).sqrt()).sum()


def importance_loss(
    routings: Sequence[Routing], counts: Sequence[RoutingCounts] | None = None
) -> torch.Tensor:
    """Mean importance: sum over layers of E * sum_e P_e^2.

    You et al. 2021 (SpeechMoE, mean importance loss), summed over layers as in the authors'
    tencent-ailab/3m-asr. Its minimum is the number of layers, reached when every layer has the same
    mean probability for all its experts; a layer that gives one of them everything has E. Other
    than the load balance loss it knows the probabilities only, not the choices.
    """
    counts = counts or [count_routing(routing) for routing in routings]
    layers = zip(routings, counts, strict=True)
    return torch.stack([_importance(routing, layer) for routing, layer in layers]).sum()


def _importance(routing: Routing, layer: RoutingCounts) -> torch.Tensor:
    """This call's part of E * sum_e P_e^2, with P over the frames of ``layer``.

    P has a part q of this call in it. Of P * q, which is what all parts add up to P^2 of, the
    gradient would see one factor, and both change with q; hence 2 P q with the value taken off
    once.
    """
    frames = layer.frames.clamp(min=1)
    q_E = routing.probabilities_NE.sum(dim=0) / frames
    mean_E = layer.probabilities_E / frames
    return q_E.numel() * (mean_E * (2 * q_E - q_E.detach())).sum()
