"""Factors nearest to given weights, against what is known and against another way to find them."""

import pytest
import torch

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.low_rank.svd import fit_factors


def weights(layers: int, outputs: int = 7, inputs: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        for _ in range(layers)
    ]


def distance(ws, ups, downs, up_of, down_of) -> float:
    parts = [w - ups[u] @ downs[d] for w, u, d in zip(ws, up_of, down_of)]
    return float(sum(part.square().sum() for part in parts) ** 0.5)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_error_is_that_of_the_discarded_singular_values(shape: tuple[int, int], rank: int) -> None:
    ws = weights(1, *shape)
    ups, downs = fit_factors(ws, [0], [0], rank)
    assert (ups[0].shape, downs[0].shape) == ((shape[0], rank), (rank, shape[1]))
    discarded = torch.linalg.svdvals(ws[0])[rank:]
    error = distance(ws, ups, downs, [0], [0])
    assert error == pytest.approx(float(discarded.square().sum() ** 0.5), abs=1e-12)
    # neither factor starts larger than the other
    torch.testing.assert_close(ups[0].norm(), downs[0].norm())


def test_a_shared_up_is_the_optimum_of_the_weights_side_by_side() -> None:
    ws = weights(3)
    ups, downs = fit_factors(ws, [0, 0, 0], [0, 1, 2], 2)
    discarded = torch.linalg.svdvals(torch.cat(ws, dim=1))[2:]
    error = distance(ws, ups, downs, [0, 0, 0], [0, 1, 2])
    assert error == pytest.approx(float(discarded.square().sum() ** 0.5))
    # more than when nothing is shared
    apart = fit_factors(ws, [0, 1, 2], [0, 1, 2], 2)
    assert distance(ws, *apart, [0, 1, 2], [0, 1, 2]) < error


def test_both_factors_shared_give_the_mean_in_full_rank() -> None:
    ws = weights(3)
    ups, downs = fit_factors(ws, [0, 0, 0], [0, 0, 0], 5)
    torch.testing.assert_close(ups[0] @ downs[0], sum(ws) / 3)


def alternate(ws, up_of, down_of, rank: int, seed: int) -> float:
    """Alternating least squares from random factors, which knows nothing of decompositions."""
    torch.manual_seed(seed)
    downs = {d: torch.randn(rank, ws[0].size(1), dtype=torch.float64) for d in set(down_of)}
    ups: dict[int, torch.Tensor] = {}
    for _ in range(300):
        for u in set(up_of):
            members = [n for n in range(len(ws)) if up_of[n] == u]
            wanted = torch.cat([ws[n].T for n in members])
            given = torch.cat([downs[down_of[n]].T for n in members])
            ups[u] = torch.linalg.lstsq(given, wanted).solution.T
        for d in set(down_of):
            members = [n for n in range(len(ws)) if down_of[n] == d]
            wanted = torch.cat([ws[n] for n in members])
            given = torch.cat([ups[up_of[n]] for n in members])
            downs[d] = torch.linalg.lstsq(given, wanted).solution
    return distance(ws, ups, downs, up_of, down_of)


@pytest.mark.parametrize(
    ("up_of", "down_of"),
    [
        ([0, 0, 0], [0, 1, 2]),
        ([0, 1, 2], [0, 0, 0]),
        ([0, 0, 0, 3], [0, 0, 2, 3]),  # a group of V within one of U, and a layer by itself
        ([0, 1, 1, 1], [0, 0, 0, 0]),
        ([0, 0, 2, 2, 2], [0, 1, 2, 2, 2]),
    ],
)
def test_no_other_factors_are_nearer(up_of: list[int], down_of: list[int]) -> None:
    ws = weights(len(up_of))
    found = distance(ws, *fit_factors(ws, up_of, down_of, 2), up_of, down_of)
    others = [alternate(ws, up_of, down_of, 2, seed) for seed in range(2)]
    assert min(others) == pytest.approx(found, rel=1e-5)


def test_crossing_groups_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'up' and those that share 'down' cross"):
        fit_factors(weights(4), [0, 0, 2, 2], [0, 1, 0, 1], 2)
