"""Factors that come closest to given weights.

Dimension letters: L layers, M outputs, N inputs, R rank. Distances are Frobenius norms.

W = S diag(s) T' is a singular value decomposition. Of all products U V of rank R, the one of the
R largest singular values is nearest to W, and its distance is the root of the sum of the other
values' squares (Eckart and Young 1936, Psychometrika, "The approximation of one matrix by another
of lower rank").

A factor U that several layers share makes one matrix of their weights side by side, since

    |W_1 - U V_1|^2 + ... + |W_L - U V_L|^2 = |[W_1 ... W_L] - U [V_1 ... V_L]|^2.

Layers that have V in common as well need the same product: the sum over n such layers is
n |mean - U V|^2 and a rest that no factor changes, so that their mean stands in the row with
weight sqrt(n). A shared V is the same with everything transposed.
"""

from collections.abc import Iterator, Sequence

import torch

from espnet_moe_share.errors import ConfigurationError


def _connected(up_of: Sequence[int], down_of: Sequence[int]) -> Iterator[list[int]]:
    """Sets of layers that no shared factor joins with a layer outside."""
    left = list(range(len(up_of)))
    while left:
        part: list[int] = []
        grown = left[:1]
        while grown != part:
            part = grown
            ups, downs = {up_of[n] for n in part}, {down_of[n] for n in part}
            grown = [n for n in left if up_of[n] in ups or down_of[n] in downs]
        yield part
        left = [n for n in left if n not in part]


def _fit_one_up(
    weights: Sequence[torch.Tensor], down_of: Sequence[int], rank: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """One U for all weights (M, N), and the V of each label in ``down_of``."""
    labels = list(dict.fromkeys(down_of))
    members = [[w for w, label in zip(weights, down_of) if label == one] for one in labels]
    scales = [len(group) ** 0.5 for group in members]
    row = torch.cat(
        [scale * torch.stack(group).mean(dim=0) for scale, group in zip(scales, members)], dim=1
    )
    left, values, right = torch.linalg.svd(row, full_matrices=False)
    # The singular values go to both factors alike: neither starts much larger than the other.
    root = values[:rank].sqrt()
    blocks = (root.unsqueeze(1) * right[:rank]).chunk(len(labels), dim=1)
    downs = {label: block / scale for label, block, scale in zip(labels, blocks, scales)}
    return left[:, :rank] * root, downs


def fit_factors(
    weights: Sequence[torch.Tensor], up_of: Sequence[int], down_of: Sequence[int], rank: int
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Factors with the least sum over layers of |W_l - U V|^2.

    Args:
        weights: W_l, (M, N) each; L of them.
        up_of: Label of each layer's U (L,); layers of the same label share it.
        down_of: Label of each layer's V (L,).
        rank: R.

    Returns:
        U (M, R) of each label in ``up_of``, and V (R, N) of each label in ``down_of``, float64.

    Raises:
        ConfigurationError: Groups of layers that share U and groups that share V cross, so that
            no singular value decomposition gives the best factors.
    """
    ups: dict[int, torch.Tensor] = {}
    downs: dict[int, torch.Tensor] = {}
    for part in _connected(up_of, down_of):
        chosen = [weights[n].double() for n in part]
        up_labels, down_labels = [up_of[n] for n in part], [down_of[n] for n in part]
        if len(set(up_labels)) == 1:
            ups[up_labels[0]], found = _fit_one_up(chosen, down_labels, rank)
            downs.update(found)
        elif len(set(down_labels)) == 1:
            transposed, found = _fit_one_up([w.T for w in chosen], up_labels, rank)
            downs[down_labels[0]] = transposed.T
            ups.update({label: up.T for label, up in found.items()})
        else:
            raise ConfigurationError(
                "the groups of layers that share 'up' and those that share 'down' cross; let each "
                "group of one lie within a group of the other"
            )
    return ups, downs
