"""Stacked experts' weights; how they are applied is tested in test_kernels.py."""

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)

from espnet_moe_share.experts.experts import StackedExperts


def test_equals_espnet_feed_forwards() -> None:
    torch.manual_seed(0)
    stacked = StackedExperts(3, 4, 7, torch.nn.Dropout(0.0), Swish())
    x = torch.randn(5, 4)
    for weights in stacked.unbind():
        network = PositionwiseFeedForward(4, 7, 0.0, Swish())
        network.w_1.weight.data, network.w_1.bias.data = weights[0].data, weights[1].data
        network.w_2.weight.data, network.w_2.bias.data = weights[2].data, weights[3].data
        torch.testing.assert_close(stacked.apply_one(x, weights), network(x))


def test_every_expert_starts_differently_and_as_linear_does() -> None:
    torch.manual_seed(0)
    stacked = StackedExperts(3, 64, 100, torch.nn.Dropout(0.0), torch.nn.SiLU())
    reference = torch.nn.Linear(64, 100)
    assert not torch.equal(stacked.w_1[0], stacked.w_1[1])
    for expert in stacked.w_1:
        torch.testing.assert_close(expert.std(), reference.weight.std(), rtol=0.05, atol=0)
        assert expert.abs().max() <= 1 / 8
