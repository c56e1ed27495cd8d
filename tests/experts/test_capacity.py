"""Capacity by hand: how much an expert takes, what it drops, and that inference drops nothing."""

import pytest
import torch

from espnet_moe_share.experts.capacity import expert_capacity, over_capacity
from espnet_moe_share.experts.counts import RoutingCounts, count_routing
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.load import dropped_share, layer_loads
from espnet_moe_share.experts.recording import record_routing

SIZE = 6


@pytest.mark.parametrize(
    ("num_frames", "top_k", "num_experts", "factor", "capacity"),
    [
        (8, 1, 4, 1.0, 2),
        (9, 1, 4, 1.0, 3),  # an even load of 2.25 fits
        (8, 2, 4, 1.25, 5),
        (8, 1, 4, 0.5, 1),
        (3, 1, 8, 0.1, 1),
        (0, 1, 4, 1.0, 0),
    ],
)
def test_expert_capacity(
    num_frames: int, top_k: int, num_experts: int, factor: float, capacity: int
) -> None:
    assert expert_capacity(num_frames, top_k, num_experts, factor) == capacity


def test_lowest_gates_are_dropped_and_the_later_of_equals() -> None:
    expert_ids = torch.tensor([[0], [0], [1], [0], [1], [0]])
    gates = torch.tensor([[0.5], [0.9], [0.4], [0.5], [0.6], [0.5]])
    dropped = over_capacity(expert_ids, gates, num_experts=3, capacity=2)
    assert dropped.tolist() == [[False], [False], [False], [True], [False], [True]]
    dropped = over_capacity(expert_ids, gates, num_experts=3, capacity=1)
    assert dropped.flatten().tolist() == [True, False, True, True, False, True]
    assert not over_capacity(expert_ids, gates, 3, 4).any()
    assert over_capacity(expert_ids, gates, 3, 0).all()


def test_first_and_second_choices_compete_for_the_same_room() -> None:
    expert_ids = torch.tensor([[0, 1], [1, 0], [0, 2]])
    gates = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    dropped = over_capacity(expert_ids, gates, num_experts=3, capacity=1)
    assert dropped.tolist() == [[False, True], [False, True], [True, False]]


def make(top_k: int = 1, capacity_factor: float | None = 1.0) -> MixtureOfExperts:
    torch.manual_seed(3)
    layer = MixtureOfExperts(
        *(SIZE, 10, torch.nn.Dropout(0.0), torch.nn.SiLU(), 4, top_k),
        capacity_factor=capacity_factor,
    )
    torch.nn.init.normal_(layer.router.weight)
    return layer


@pytest.mark.parametrize("top_k", [1, 2])
def test_dropped_choices_contribute_zero_and_the_others_what_they_did(
    double_precision: None, top_k: int
) -> None:
    layer, unlimited = make(top_k), make(top_k, capacity_factor=None)
    x = torch.randn(2, 11, SIZE, requires_grad=True)
    with record_routing(layer) as records:
        y = layer(x)
    (routing,) = records[""]
    assert routing.dropped_NK is not None
    capacity = expert_capacity(22, top_k, 4, 1.0)
    chosen = routing.expert_ids_NK.flatten().bincount(minlength=4)
    kept = routing.expert_ids_NK[~routing.dropped_NK].bincount(minlength=4)
    assert kept.tolist() == chosen.clamp(max=capacity).tolist()
    assert kept.sum() < chosen.sum()

    *_, expert_ids, gates = unlimited.router(x.flatten(0, 1))
    expected = torch.zeros(22, SIZE)
    for n, k in (~routing.dropped_NK).nonzero().tolist():
        e = expert_ids[n, k]
        hidden = unlimited.experts.w_1[e] @ x.flatten(0, 1)[n] + unlimited.experts.b_1[e]
        output = unlimited.experts.w_2[e] @ torch.nn.functional.silu(hidden)
        expected[n] += gates[n, k] * (output + unlimited.experts.b_2[e])
    torch.testing.assert_close(y.flatten(0, 1), expected)
    share = layer_loads({"encoders.0.feed_forward": count_routing(routing)}, has_capacity=True)
    share = share["layer0_feed_forward_dropped_share"]
    torch.testing.assert_close(share, 1 - (kept.sum() / chosen.sum()).float())

    (gradient,) = torch.autograd.grad(y.sum(), x)
    all_dropped = routing.dropped_NK.all(dim=1)
    assert (gradient.flatten(0, 1).abs().sum(-1) == 0).tolist() == all_dropped.tolist()


def test_gradcheck(double_precision: None) -> None:
    layer = make(top_k=2, capacity_factor=0.5)
    x = torch.randn(1, 4, SIZE, requires_grad=True)
    weights = [layer.router.weight, layer.experts.b_2]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        return layer(inputs[0])

    assert torch.autograd.gradcheck(run, (x, *weights))


def test_what_is_dropped_depends_on_neither_padding_nor_order(double_precision: None) -> None:
    layer = make()
    lengths = torch.tensor([7, 3, 5])
    x = torch.randn(3, 7, SIZE)
    outputs = []
    for frames, order in ((7, [0, 1, 2]), (11, [0, 1, 2]), (7, [2, 0, 1])):
        padded = torch.full((3, frames, SIZE), 1e3)
        padded[:, :7] = x[order]
        layer.frame_mask = torch.arange(frames) < lengths[order].unsqueeze(1)
        with record_routing(layer) as records:
            y = layer(padded)
        outputs.append({number: y[row, : lengths[number]] for row, number in enumerate(order)})
        assert 0 < dropped_share(count_routing(records[""][0]))["dropped_share"] < 1
    for number in range(3):
        assert (outputs[0][number].abs().sum(-1) == 0).any() or number != 0
        for other in outputs[1:]:
            torch.testing.assert_close(other[number], outputs[0][number])


def test_inference_drops_nothing_and_logs_so(double_precision: None) -> None:
    layer, unlimited = make(capacity_factor=0.25).eval(), make(capacity_factor=None).eval()
    x = torch.randn(2, 9, SIZE)
    with record_routing(layer) as records:
        assert torch.equal(layer(x), unlimited(x))
    assert dropped_share(count_routing(records[""][0]))["dropped_share"] == 0


def test_ample_capacity_changes_nothing(double_precision: None) -> None:
    x = torch.randn(2, 9, SIZE)
    assert torch.equal(make(capacity_factor=4.0)(x), make(capacity_factor=None)(x))


def test_names_of_a_skipped_layer() -> None:
    zero = torch.zeros((), dtype=torch.int64)
    counts = {"encoders.1.feed_forward": RoutingCounts(zero, zero.expand(4), zero, torch.zeros(4))}
    names = layer_loads(counts, has_capacity=True)
    assert "layer1_feed_forward_dropped_share" in names
    assert all(torch.isnan(torch.tensor(value)) for value in names.values())
    assert len(layer_loads(counts)) == len(names) - 1
