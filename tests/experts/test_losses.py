"""Router losses against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch

from espnet_moe_share.experts.counts import add_counts, count_routing
from espnet_moe_share.experts.losses import (
    importance_loss,
    layer_balance_loss,
    pool_balance_loss,
    router_z_loss,
    sparsity_loss,
)
from espnet_moe_share.experts.routing import Routing

POOL, OTHER_POOL = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))


def routing(
    probabilities: list[list[float]] | torch.Tensor,
    pool: torch.nn.Parameter = POOL,
    top_k: int = 1,
    scale: float = 1.0,
) -> Routing:
    """A call whose softmax gives these probabilities; its logits are log(scale * p)."""
    logits = (scale * torch.as_tensor(probabilities)).log().requires_grad_()
    return Routing(logits, logits.softmax(-1), logits.topk(top_k).indices, pool)


def test_layer_balance_by_hand() -> None:
    # f = (3/4, 1/4); P = ((.9 + .6 + .8 + .3) / 4, (.1 + .4 + .2 + .7) / 4) = (.65, .35)
    first = routing([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    assert layer_balance_loss([first]).item() == pytest.approx(2 * (0.75 * 0.65 + 0.25 * 0.35))
    # and a second layer adds its own: f = (0, 1), P = (.2, .8)
    second = routing([[0.2, 0.8]])
    assert layer_balance_loss([first, second]).item() == pytest.approx(1.15 + 1.6)


def test_layer_balance_top_2_counts_every_choice() -> None:
    # choices 0 1, 2 1: f = (1/4, 1/2, 1/4); P = (.35, .3, .35)
    both = routing([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]], top_k=2)
    expected = 3 * (0.25 * 0.35 + 0.5 * 0.3 + 0.25 * 0.35)
    assert layer_balance_loss([both]).item() == pytest.approx(expected)


def test_pool_balance_by_hand() -> None:
    # together: f = (2/3, 1/3) of 3 frames, P = ((.9 + .6 + .2) / 3, (.1 + .4 + .8) / 3); 2 layers
    layers = [routing([[0.9, 0.1], [0.6, 0.4]]), routing([[0.2, 0.8]])]
    expected = 2 * 2 * (2 / 3 * 1.7 / 3 + 1 / 3 * 1.3 / 3)
    assert pool_balance_loss(layers).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [layer_balance_loss, pool_balance_loss])
def test_balance_minimum_is_the_number_of_layers(loss: object) -> None:
    even = [[0.97, 0.01, 0.01, 0.01]]
    even = [even[0][-n:] + even[0][:-n] for n in range(4)]
    assert callable(loss)
    layers = [routing(even, POOL), routing(even, POOL), routing(even, OTHER_POOL)]
    assert loss(layers).item() == pytest.approx(3.0, abs=1e-5)
    collapsed = [routing([even[0]] * 4, layer.experts) for layer in layers]
    assert loss(collapsed).item() == pytest.approx(3 * 4 * 0.97, abs=1e-4)


def test_pool_equals_layer_without_sharing() -> None:
    torch.manual_seed(0)
    layers = [routing(torch.rand(9, 4).softmax(-1).tolist(), pool) for pool in (POOL, OTHER_POOL)]
    torch.testing.assert_close(pool_balance_loss(layers), layer_balance_loss(layers))


def test_pool_lets_layers_complement_each_other() -> None:
    left, right = [[0.9, 0.1]] * 5, [[0.1, 0.9]] * 5
    layers = [routing(left), routing(right)]
    assert pool_balance_loss(layers).item() == pytest.approx(2.0, abs=1e-5)
    assert layer_balance_loss(layers).item() == pytest.approx(3.6, abs=1e-5)
    apart = [routing(left, POOL), routing(right, OTHER_POOL)]
    assert pool_balance_loss(apart).item() == pytest.approx(3.6, abs=1e-5)


@pytest.mark.parametrize("loss", [layer_balance_loss, pool_balance_loss])
def test_balance_gradient_goes_through_the_probabilities(loss: object) -> None:
    assert callable(loss)
    layer = routing([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    loss([layer]).backward()
    # d/dz of E * sum_e f_e * mean(p_e): E / N * p_e * (f_e - sum_j f_j p_j), f held fixed
    p = layer.logits_NE.detach().softmax(-1)
    f = torch.tensor([2 / 3, 1 / 3])
    expected = 2 / 3 * p * (f - (f * p).sum(-1, keepdim=True))
    torch.testing.assert_close(layer.logits_NE.grad, expected)


def test_router_z_by_hand() -> None:
    # log-sum-exp of log(scale * p) is log(scale)
    first, second = routing([[0.5, 0.5], [0.9, 0.1]], scale=3.0), routing([[0.3, 0.7]], scale=0.5)
    expected = math.log(3.0) ** 2 + math.log(0.5) ** 2
    assert router_z_loss([first]).item() == pytest.approx(math.log(3.0) ** 2)
    assert router_z_loss([first, second]).item() == pytest.approx(expected)


LOSSES = [
    layer_balance_loss,
    pool_balance_loss,
    router_z_loss,
    sparsity_loss,
    importance_loss,
]


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_of_a_batch_add_up_with_the_counts_of_the_whole(loss: Any) -> None:
    """What each process of a distributed training computes; their numbers of frames differ."""
    torch.manual_seed(0)
    table = torch.rand(2, 9, 4).mul(3).softmax(-1)
    whole = [routing(layer, scale=2.0) for layer in table]
    counts = [count_routing(layer) for layer in whole]
    parts = [
        [routing(layer[rows], scale=2.0) for layer in table]
        for rows in (slice(0, 6), slice(6, 9), slice(9, 9))
    ]
    for layer, count in enumerate(counts):
        added = add_counts([count_routing(part[layer]) for part in parts])
        assert torch.equal(added.frames, count.frames)
        assert torch.equal(added.choices_E, count.choices_E)
    total = sum(loss(part, counts) for part in parts)
    torch.testing.assert_close(total, loss(whole))
    total.backward()
    loss(whole).backward()
    for layer, expected in enumerate(whole):
        gradient = torch.cat([part[layer].logits_NE.grad for part in parts])
        torch.testing.assert_close(gradient, expected.logits_NE.grad)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_layer_that_did_not_run_adds_nothing(loss: Any) -> None:
    ran = routing([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    skipped = routing(torch.empty(0, 2))
    assert torch.equal(loss([ran, skipped]), loss([ran]))
    assert loss([skipped]).item() == 0.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [routing(torch.rand(50, 4).softmax(-1).tolist()) for _ in range(2)]
    with torch.autocast("cpu", dtype=dtype):
        under_autocast = loss(layers)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, loss(layers))


SURE, UNSURE = [1.0, 1e-30, 1e-30, 1e-30], [0.25] * 4


def test_sparsity_by_hand() -> None:
    # |p|_1 / |p|_2 of (.6, .8) / 1.4 is 1.4 / 1, of (.5, .5) is sqrt(2)
    first, second = routing([[0.6 / 1.4, 0.8 / 1.4], [0.5, 0.5]]), routing([[0.5, 0.5]])
    mean = (1.4 + math.sqrt(2)) / 2
    assert sparsity_loss([first]).item() == pytest.approx(mean)
    assert sparsity_loss([first, second]).item() == pytest.approx(mean + math.sqrt(2))


def test_sparsity_is_1_at_one_hot_and_sqrt_of_the_experts_at_uniform() -> None:
    # of which expert a frame is sure does not matter
    assert sparsity_loss([routing([SURE, SURE[::-1]])]).item() == pytest.approx(1)
    assert sparsity_loss([routing([UNSURE] * 3)]).item() == pytest.approx(math.sqrt(4))
    torch.manual_seed(0)
    for logits in torch.randn(20, 1, 4) * 3:
        between = sparsity_loss(
            [Routing(logits, logits.softmax(-1), logits.topk(1).indices, POOL)]
        ).item()
        assert 1 < between < 2


def test_importance_by_hand() -> None:
    # P = ((.9 + .5) / 2, (.1 + .5) / 2) = (.7, .3)
    first, second = routing([[0.9, 0.1], [0.5, 0.5]]), routing([[0.2, 0.8]])
    assert importance_loss([first]).item() == pytest.approx(2 * (0.49 + 0.09))
    assert importance_loss([first, second]).item() == pytest.approx(1.16 + 2 * (0.04 + 0.64))


def test_importance_is_1_at_a_uniform_mean_and_the_number_of_experts_at_one_hot() -> None:
    # the mean counts: frames may be sure, as long as they are sure of different experts
    each_another = [SURE[-n:] + SURE[:-n] for n in range(4)]
    for probabilities in (each_another, [UNSURE] * 3):
        assert importance_loss([routing(probabilities)]).item() == pytest.approx(1)
    assert importance_loss([routing([SURE] * 3)]).item() == pytest.approx(4)


def test_descent_on_speechmoes_losses_makes_frames_sure_and_experts_even() -> None:
    torch.manual_seed(0)
    logits = (0.1 * torch.randn(64, 4)).requires_grad_()
    for _ in range(400):
        layer = Routing(logits, logits.softmax(-1), logits.topk(1).indices, POOL)
        loss = sparsity_loss([layer]) + importance_loss([layer])
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
    assert loss.item() == pytest.approx(2, abs=0.05)
    assert (logits.softmax(-1).amax(-1) > 0.95).all()
    assert logits.argmax(-1).bincount(minlength=4).float().std() < 3
