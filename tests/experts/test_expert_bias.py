"""Loss-free balancing: the update by hand, when it comes."""

import pytest
import torch

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.counts import RoutingCounts, count_routing
from espnet_moe_share.experts.expert_bias import ExpertBias, LossFreeBalancing
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing, routing_by_layer
from espnet_moe_share.experts.routing import Routing

RATE = 0.125
PATHS = ["layers.0.feed_forward", "layers.1.feed_forward"]


def counts(*expert_ids: int) -> RoutingCounts:
    ids = torch.tensor(expert_ids, dtype=torch.long).view(-1, 1)
    logits = torch.zeros(len(ids), 4)
    pool = torch.nn.Parameter(torch.zeros(1))
    return count_routing(Routing(logits, logits.softmax(-1), ids, pool))


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.feed_forward = MixtureOfExperts(
            *(3, 4, torch.nn.Dropout(0.0), torch.nn.ReLU(), 4, 1), bias_update_rate=RATE
        )


class Stack(torch.nn.Module):
    """Two expert layers, the second of which can be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([Layer(), Layer()])
        self.balancing = LossFreeBalancing(self)

    @property
    def biases(self) -> list[list[float]]:
        return [bias.bias.tolist() for bias in self.balancing.biases.values()]

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def forward(self, x: torch.Tensor, skip: bool = False) -> torch.Tensor:
        self.balancing.update()
        with record_routing(self) as records:
            x = x + self.layers[0].feed_forward(x)
            if not skip:
                x = x + self.layers[1].feed_forward(x)
        self.balancing.count(
            {path: count_routing(r) for path, r in routing_by_layer(self, records).items()}
        )
        self.records = records
        return x


@pytest.mark.parametrize(
    ("counts", "signs"),
    [
        ([6, 1, 1, 0], [-1, 1, 1, 1]),
        ([2, 2, 2, 2], [0, 0, 0, 0]),
        ([3, 2, 2, 1], [-1, 0, 0, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),  # a layer that stochastic depth skipped
    ],
)
def test_update_by_hand(counts: list[int], signs: list[int]) -> None:
    bias = ExpertBias(4, RATE)
    start = torch.tensor([0.5, 0.0, -0.25, 0.0])
    bias.bias.copy_(start)
    bias.update(torch.tensor(counts))
    step = RATE * torch.tensor(signs, dtype=torch.float32)
    torch.testing.assert_close(bias.bias, start + step - step.mean(), rtol=0, atol=1e-7)


def test_counts_are_used_after_the_optimisers_step_and_once() -> None:
    stack = Stack()
    optimizer = stack.optimizer()
    # the second forward of an accumulated step tips the balance
    for first, second in (([0, 0, 1], [2, 2]), ([1, 2, 3, 3, 3], [0, 3])):
        stack.balancing.count({PATHS[0]: counts(*first), PATHS[1]: counts(*second)})
        stack.balancing.update()
        assert stack.biases == [[0.0] * 4, [0.0] * 4]
    optimizer.step()
    assert stack.biases == [[0.0] * 4, [0.0] * 4]
    stack.balancing.update()
    # layer 0: counts 2 2 1 3; layer 1: counts 1 0 2 1
    after = [[0.0, 0.0, RATE, -RATE], [0.0, RATE, -RATE, 0.0]]
    assert stack.biases == after
    stack.balancing.update()
    optimizer.step()
    stack.balancing.update()
    assert stack.biases == after


def test_a_layer_that_did_not_run() -> None:
    stack = Stack()
    stack.balancing.count({PATHS[0]: counts(0, 0, 1), PATHS[1]: counts()})
    stack.optimizer().step()
    stack.balancing.update()
    assert stack.biases == [[-RATE, -RATE, RATE, RATE], [0.0] * 4]


def test_bias_evens_the_load_of_each_layer() -> None:
    torch.manual_seed(1)
    stack = Stack()
    optimizer = stack.optimizer()
    with torch.no_grad():
        for layer in stack.layers:  # expert 0 is liked by most frames
            layer.feed_forward.router.weight.normal_()
            layer.feed_forward.router.weight[0, 0] = 2.0
    x = torch.randn(1, 400, 3)
    x[..., 0] = x[..., 0].abs()
    for layer in stack.layers:
        layer.feed_forward.expert_bias.update_rate = 0.01
    shares = []
    for _ in range(120):
        with record_routing(stack) as records:
            stack(x)
        optimizer.step()
        stack.balancing.update()
        with record_routing(stack) as records:
            stack.layers[0].feed_forward(x)
        shares.append(records[PATHS[0]][0].expert_ids_NK.flatten().bincount(minlength=4) / 400)
    assert shares[0].max() > 0.45
    assert torch.stack(shares[-20:]).mean(0).max() < 0.3


def test_bias_moves_with_the_module_and_stays_out_of_gradients() -> None:
    stack = Stack().double()
    assert [name for name, _ in stack.named_parameters() if "bias" in name] == []
    assert sorted(name for name, _ in stack.named_buffers()) == [
        f"{path}.expert_bias.bias" for path in PATHS
    ]
    assert stack.balancing.buffer_paths == [f"{path}.expert_bias.bias" for path in PATHS]
    x = torch.randn(1, 9, 3, dtype=torch.double)
    stack(x).sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())


def test_training_without_anybody_who_counts_is_refused() -> None:
    layer = MixtureOfExperts(
        *(3, 4, torch.nn.Dropout(0.0), torch.nn.ReLU(), 4, 1), bias_update_rate=RATE
    )
    with pytest.raises(ConfigurationError, match="'bias_update_rate' needs 'model: moe_share'"):
        layer(torch.randn(1, 5, 3))
    layer.eval()(torch.randn(1, 5, 3))
