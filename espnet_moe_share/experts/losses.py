"""Losses on what the routers decided: pure functions, unweighted, one formula each.

All take the recorded calls of the expert layers (:mod:`espnet_moe_share.experts.routing`) and
return a scalar float32 tensor with gradient. Notation: p = softmax of the logits over the E
experts, f_e = share of the N * K choices that went to expert e (no gradient), P_e = mean of p_e
over the N frames.
"""

from collections.abc import Sequence

import torch

from espnet_moe_share.experts.routing import Routing


def _choice_shares(routings: Sequence[Routing]) -> torch.Tensor:
    """Return f (E,) over the frames of all given calls."""
    num_experts = routings[0].logits_NE.size(1)
    chosen = torch.cat([routing.expert_ids_NK.flatten() for routing in routings])
    counts = chosen.bincount(minlength=num_experts).float()
    return counts / counts.sum()


def _mean_probabilities(routings: Sequence[Routing]) -> torch.Tensor:
    """Return P (E,) over the frames of all given calls."""
    return torch.cat([routing.logits_NE for routing in routings]).softmax(dim=-1).mean(dim=0)


def _balance(routings: Sequence[Routing]) -> torch.Tensor:
    shares_E = _choice_shares(routings)
    return shares_E.numel() * (shares_E * _mean_probabilities(routings)).sum()


def layer_balance_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Load balance of every layer by itself: sum over layers of E * sum_e f_e P_e.

    Fedus et al. 2022 (Switch Transformers, formula 4); its minimum is the number of layers,
    reached when every layer spreads its frames evenly.
    """
    return torch.stack([_balance([routing]) for routing in routings]).sum()


def pool_balance_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Load balance of every pool of experts: as for a layer, over all layers that share the pool.

    f and P are taken over all frames of all those layers together (UniPool, arXiv 2605.06665), so
    that a layer may prefer some experts as long as none is idle everywhere. Scaled by the number
    of the pool's layers, so that one weight suits both losses: the minimum is again the number of
    layers. Without sharing it equals :func:`layer_balance_loss`.
    """
    pools: dict[int, list[Routing]] = {}
    for routing in routings:
        pools.setdefault(id(routing.experts), []).append(routing)
    return torch.stack([len(pool) * _balance(pool) for pool in pools.values()]).sum()


def router_z_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Size of the logits: sum over layers of the mean over frames of (log sum_e exp z_e)^2.

    Zoph et al. 2022 (ST-MoE, formula 5).
    """
    return torch.stack(
        [routing.logits_NE.logsumexp(dim=-1).square().mean() for routing in routings]
    ).sum()


def sparsity_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Sparsity of the probabilities: sum over layers of the mean over frames of |p / |p|_2|_1.

    You et al. 2021 (SpeechMoE, sparsity L1 loss), summed over layers as in the authors'
    tencent-ailab/3m-asr. Its minimum is the number of layers, reached when every router is sure of
    every frame; a layer whose experts are all alike to it has sqrt(E).
    """
    return torch.stack([_sparsity(routing) for routing in routings]).sum()


def _sparsity(routing: Routing) -> torch.Tensor:
    p_NE = routing.logits_NE.softmax(dim=-1)
    return (p_NE.sum(dim=-1) / p_NE.square().sum(dim=-1).sqrt()).mean()


def importance_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Mean importance: sum over layers of E * sum_e P_e^2.

    You et al. 2021 (SpeechMoE, mean importance loss), summed over layers as in the authors'
    tencent-ailab/3m-asr. Its minimum is the number of layers, reached when every layer has the same
    mean probability for all its experts; a layer that gives one of them everything has E. Other
    than the load balance loss it knows the probabilities only, not the choices.
    """
    return torch.stack([_importance(routing) for routing in routings]).sum()


def _importance(routing: Routing) -> torch.Tensor:
    mean_E = _mean_probabilities([routing])
    return mean_E.numel() * mean_E.square().sum()
