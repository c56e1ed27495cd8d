"""The optional keys of experts in an encoder: where they act, and what sharing leaves alone."""

from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, SHARING, encoder, features, randomize

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.experts.counts import count_routing
from espnet_moe_share.experts.expert_bias import LossFreeBalancing
from espnet_moe_share.experts.recording import record_routing, routing_by_layer

OPTIONS = {"dropout_rate": 0.2, "capacity_factor": 1.0, "jitter": 0.1, "bias_update_rate": 0.125}
NO_DROPOUT = {
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}
EVERYTHING = [{"modules": ["*"], "groups": 1}]
OMNI = [{"modules": ["*.router"], "groups": 1}]


def biases(model: Any) -> list[torch.Tensor]:
    return [layer.feed_forward.expert_bias.bias for layer in model.encoders]


def test_options_reach_every_expert_layer() -> None:
    for layer in encoder(experts={**EXPERTS, **OPTIONS}, sharing=SHARING).encoders:
        moe = layer.feed_forward
        assert moe.experts.dropout.p == 0.2
        assert moe.capacity_factor == 1.0
        assert moe.router.jitter == 0.1
        assert moe.expert_bias.update_rate == 0.125
        assert layer.feed_forward_macaron.dropout.p == 0.1


def test_refused_option() -> None:
    with pytest.raises(ConfigurationError, match="'capacity_factor' must be a number above 0"):
        encoder(experts={**EXPERTS, "capacity_factor": 0})
    with pytest.raises(ConfigurationError, match=r"the keys are .*, capacity_factor, jitter"):
        encoder(experts={**EXPERTS, "capacity": 1.0})


@pytest.mark.parametrize(("rate", "dense_rate"), [(0.0, 0.5), (0.5, 0.0)])
def test_expert_dropout_replaces_the_feed_forwards_rate(rate: float, dense_rate: float) -> None:
    model = encoder(experts={**EXPERTS, "dropout_rate": rate}, dropout_rate=dense_rate)
    layer = model.encoders[0]
    x = torch.randn(2, 30, 8)
    for feed_forward, expected in (
        (layer.feed_forward, rate),
        (layer.feed_forward_macaron, dense_rate),
    ):
        assert torch.equal(feed_forward(x), feed_forward(x)) == (expected == 0)
        feed_forward.eval()
        assert torch.equal(feed_forward(x), feed_forward(x))


@pytest.mark.parametrize("sharing", [EVERYTHING, SHARING, OMNI])
def test_bias_is_each_layers_own_whatever_is_shared(sharing: Any) -> None:
    model = encoder(experts={**EXPERTS, "bias_update_rate": 0.125}, sharing=sharing)
    assert len({id(bias) for bias in biases(model.double())}) == 4
    for number, bias in enumerate(biases(model)):
        bias += number
    state = model.state_dict()
    keys = [f"encoders.{number}.feed_forward.expert_bias.bias" for number in range(4)]
    assert [key for key in state if "expert_bias" in key] == keys
    other = encoder(seed=5, experts={**EXPERTS, "bias_update_rate": 0.125}, sharing=sharing)
    other.load_state_dict(state)
    assert [bias[0].item() for bias in biases(other)] == [0, 1, 2, 3]
    if sharing == EVERYTHING:  # running statistics are buffers that rules do share
        means = [layer.conv_module.norm.running_mean for layer in model.encoders]
        assert len({id(mean) for mean in means}) == 1
    without = encoder(experts=EXPERTS, sharing=sharing)
    with pytest.raises(CheckpointMismatchError, match="expert_bias"):
        without.load_state_dict(state)


def test_rule_that_names_the_bias_is_refused() -> None:
    rule = {"modules": ["*.expert_bias"], "groups": 1}
    with pytest.raises(ConfigurationError, match=r"'\*\.expert_bias' in 'modules' matches no"):
        encoder(experts={**EXPERTS, "bias_update_rate": 0.125}, sharing=[rule])


def test_inference_with_every_option_is_that_without(double_precision: None) -> None:
    """Except for the bias, which is part of the trained model."""
    model = randomize(encoder(experts={**EXPERTS, **OPTIONS}, sharing=SHARING)).eval()
    plain = encoder(seed=1, experts=EXPERTS, sharing=SHARING).eval()
    state = model.state_dict()
    plain.load_state_dict({key: state[key] for key in state if "expert_bias" not in key})
    x, lengths = features()
    expected = plain(x, lengths)[0]
    assert torch.equal(model(x, lengths)[0], expected)
    biases(model)[2][1] = 1.0
    with record_routing(model) as records:
        biased = model(x, lengths)[0]
    assert records["encoders.2.feed_forward"][0].expert_ids_NK.unique().tolist() == [1]
    assert not torch.allclose(biased, expected)
    for row, length in enumerate(lengths):
        alone = model(x[row : row + 1, :length], lengths[row : row + 1])[0]
        torch.testing.assert_close(biased[row, :length], alone[0])


def test_gradient_checkpointing_changes_nothing(double_precision: None) -> None:
    """The second forward, in the backward pass, has the same bias and jitter, drops the same
    choices, and is not counted."""
    results = []
    for layers in ([], [0, 1, 2, 4]):
        model = encoder(
            name="moe_share_e_branchformer",
            experts={**EXPERTS, **OPTIONS, "dropout_rate": 0.0},
            sharing=SHARING,
            gradient_checkpoint_layers=layers,
            **NO_DROPOUT,
        )
        randomize(model)
        balancing = LossFreeBalancing(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, lengths = features()
        torch.manual_seed(3)
        gradients = []
        for _ in range(2):
            optimizer.zero_grad()
            balancing.update()
            with record_routing(model) as records:
                y = model(x, lengths)[0]
            balancing.count(
                {path: count_routing(r) for path, r in routing_by_layer(model, records).items()}
            )
            y.square().sum().backward()
            gradients += [p.grad.clone() for p in model.parameters()]
            optimizer.step()
        dropped = [calls[0].dropped_NK for calls in records.values()]
        assert all(dropped_NK.any() for dropped_NK in dropped)
        balancing.update()
        results.append((gradients, biases(model)))
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(checkpointed, plain)
    assert len({tuple(bias.tolist()) for bias in results[0][1]}) > 1
