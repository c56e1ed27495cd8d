"""Stacked experts against separate networks."""

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)

from espnet_moe_share.experts.experts import StackedExperts


@pytest.mark.parametrize("counts", [[3, 0, 2], [0, 0, 5], [0, 5, 0]])
def test_equals_espnet_feed_forwards(counts: list[int]) -> None:
    torch.manual_seed(0)
    activation = torch.nn.SiLU()
    stacked = StackedExperts(3, 4, 7, torch.nn.Dropout(0.0), activation)
    networks = [PositionwiseFeedForward(4, 7, 0.0, activation) for _ in counts]
    for e, network in enumerate(networks):
        network.w_1.weight.data, network.w_1.bias.data = stacked.w_1[e].data, stacked.b_1[e].data
        network.w_2.weight.data, network.w_2.bias.data = stacked.w_2[e].data, stacked.b_2[e].data
    x = torch.randn(5, 4)
    expected = torch.cat([network(part) for network, part in zip(networks, x.split(counts))])
    torch.testing.assert_close(stacked(x, torch.tensor(counts)), expected)


def test_every_expert_starts_differently_and_as_linear_does() -> None:
    torch.manual_seed(0)
    stacked = StackedExperts(3, 64, 100, torch.nn.Dropout(0.0), torch.nn.SiLU())
    reference = torch.nn.Linear(64, 100)
    assert not torch.equal(stacked.w_1[0], stacked.w_1[1])
    for expert in stacked.w_1:
        torch.testing.assert_close(expert.std(), reference.weight.std(), rtol=0.05, atol=0)
        assert expert.abs().max() <= 1 / 8
