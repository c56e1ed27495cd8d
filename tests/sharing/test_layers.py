"""Shared layers in an encoder: identity, state dict, loading, gradients."""

import copy
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import EXPERTS, SHARING, encoder, features, randomize

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError

ALL = [{"modules": ["*"], "groups": 2}]
CYCLIC = [{**SHARING[0], "order": "cyclic"}]


def tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def output(model: Any, train: bool = False) -> torch.Tensor:
    model.train(train)
    x, lengths = features()
    dtype = next(model.parameters()).dtype
    return model(x.to(dtype), lengths)[0]


def test_groups_share_everything_but_norms_and_routers() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    layers = [tensors(layer) for layer in model.encoders]
    individual = {path for path in layers[0] if layers[0][path] is not layers[1][path]}
    # LayerNorms, the convolution's batch norm with its statistics, and the router
    expected = {
        f"norm_{name}.{kind}"
        for name in ("ff", "ff_macaron", "mha", "conv", "final")
        for kind in ("weight", "bias")
    }
    expected |= {
        f"conv_module.norm.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert individual == expected | {"feed_forward.router.weight"}
    for path in layers[0]:
        if path not in individual:
            assert layers[2][path] is layers[3][path]
        assert layers[1][path] is not layers[2][path]


def test_cyclic_groups() -> None:
    model = encoder(experts=EXPERTS, sharing=CYCLIC)
    layers = [tensors(layer)["self_attn.linear_q.weight"] for layer in model.encoders]
    assert layers[0] is layers[2]
    assert layers[1] is layers[3]
    assert layers[0] is not layers[1]


def test_layers_in_no_group_and_parts_in_no_rule_stay_individual() -> None:
    sharing = [
        {"modules": ["self_attn"], "groups": [[1, 3]]},
        {"modules": ["feed_forward.router"], "groups": 1},
    ]
    model = encoder(experts=EXPERTS, sharing=sharing)
    layers = [tensors(layer) for layer in model.encoders]
    for path in layers[0]:
        same = {(a, b) for a in range(4) for b in range(a) if layers[a][path] is layers[b][path]}
        if path.startswith("self_attn"):
            assert same == {(3, 1)}
        elif path.startswith("feed_forward.router"):
            assert len(same) == 6
        else:
            assert same == set()


def _double(model: Any) -> Any:
    return model.to(torch.float64)


def _through_state(model: Any) -> Any:
    other = encoder(seed=5, sharing=ALL)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("change", [_double, copy.deepcopy, _through_state])
def test_shared_statistics_stay_shared(change: Callable[[Any], Any]) -> None:
    model = encoder(sharing=ALL)
    with torch.no_grad():  # ESPnet's attention keeps its last weights, with graph if there is one
        output(model, train=True)
    expected = tensors(model.encoders[0])["conv_module.norm.running_mean"].clone()
    model = change(model)
    norms = [layer.conv_module.norm for layer in model.encoders]
    assert norms[0].running_mean is norms[1].running_mean
    assert norms[0].running_mean is not norms[2].running_mean
    assert norms[0].weight is norms[1].weight
    torch.testing.assert_close(norms[1].running_mean, expected, check_dtype=False)
    before = norms[1].num_batches_tracked.item()
    output(model, train=True)
    assert norms[0].num_batches_tracked.item() == before + 2
    assert norms[0].running_mean is norms[1].running_mean


def test_state_dict_holds_each_tensor_once() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    state = model.state_dict()
    assert len({id(t) for t in state.values()}) == len({t.data_ptr() for t in state.values()})
    assert "encoders.0-1.feed_forward.experts.w_1" in state
    assert "encoders.2-3.self_attn.linear_q.weight" in state
    for layer in range(4):
        assert f"encoders.{layer}.feed_forward.router.weight" in state
        assert f"encoders.{layer}.conv_module.norm.running_var" in state
        assert f"encoders.{layer}.self_attn.linear_q.weight" not in state
    cyclic = encoder(experts=EXPERTS, sharing=CYCLIC).state_dict()
    assert "encoders.0,2.self_attn.linear_q.weight" in cyclic
    # copies, so that storage shared by accident is paid for
    file = io.BytesIO()
    torch.save({key: value.clone() for key, value in state.items()}, file)
    payload = sum(p.numel() for p in model.parameters()) * 4
    payload += sum(b.numel() * b.element_size() for b in model.buffers())
    dense = encoder(experts=EXPERTS).state_dict()
    overhead = 300 * len(state)  # names and alignment of a zip archive
    assert payload < file.tell() < payload + overhead + 2000
    assert sum(t.numel() for t in state.values()) < 0.6 * sum(t.numel() for t in dense.values())


@pytest.mark.parametrize("sharing", [SHARING, CYCLIC, ALL])
def test_state_dict_round_trip(sharing: Any) -> None:
    exceptions = sharing is not ALL
    experts = EXPERTS if exceptions else None
    model = randomize(encoder(experts=experts, sharing=sharing))
    other = encoder(seed=1, experts=experts, sharing=sharing)
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(model), output(other))
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    # loading has not turned the mapping that it was given inside out
    state = model.state_dict()
    keys = list(state)
    other.load_state_dict(state)
    assert list(state) == keys


def test_stack_and_model_around_it_agree_on_the_keys() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    own = model.encoders.state_dict()
    whole = {k.removeprefix("encoders."): v for k, v in model.state_dict().items()}
    assert set(own) <= set(whole)
    encoder(seed=2, experts=EXPERTS, sharing=SHARING).encoders.load_state_dict(own)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "sharing",
    [
        [{**SHARING[0], "groups": 1}],
        [{**SHARING[0], "groups": 4}],
        CYCLIC,
        [{**SHARING[0], "groups": [[0, 1]]}],
        [{"modules": ["*"], "except": ["*norm*"], "groups": 2}],
    ],
)
def test_other_grouping_is_refused(sharing: Any, strict: bool) -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    state = encoder(experts=EXPERTS, sharing=sharing).state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=r"the model needs .*encoders") as refused:
        model.load_state_dict(state, strict=strict)
    assert "the checkpoint has" in str(refused.value)
    assert all(
        torch.equal(value, before[key])
        for key, value in model.state_dict().items()
        if key.startswith("encoders")
    )


def test_gradient_is_the_sum_over_the_layers(double_precision: None) -> None:
    """Against an encoder with copied weights in place of shared ones."""
    shared = randomize(encoder(experts=EXPERTS, sharing=SHARING, dropout_rate=0.0))
    untied = encoder(experts=EXPERTS, dropout_rate=0.0)
    untied.embed.load_state_dict(shared.embed.state_dict())
    untied.after_norm.load_state_dict(shared.after_norm.state_dict())
    for mine, theirs in zip(untied.encoders, shared.encoders):
        mine.load_state_dict(theirs.state_dict())
    for module in (*shared.modules(), *untied.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x, lengths = features()
    results = []
    for model in (shared, untied):
        model.train()
        y = model(x, lengths)[0]
        y.square().sum().backward()
        results.append(y)
    torch.testing.assert_close(results[0], results[1])
    grads = [{n: p.grad for n, p in layer.named_parameters()} for layer in untied.encoders]
    for number, layer in enumerate(shared.encoders):
        group = (0, 1) if number < 2 else (2, 3)
        for path, parameter in layer.named_parameters():
            individual = "norm" in path or "router" in path
            members = (number,) if individual else group
            expected = torch.stack([grads[member][path] for member in members]).sum(0)
            torch.testing.assert_close(parameter.grad, expected)


def test_optimiser_and_freezing_see_a_shared_parameter_once() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    names = [name for name, _ in model.named_parameters()]
    assert "encoders.0.self_attn.linear_q.weight" in names
    assert "encoders.1.self_attn.linear_q.weight" not in names
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    parameter = model.encoders[1].self_attn.linear_q.weight
    before = parameter.detach().clone()
    output(model, train=True).square().sum().backward()
    gradient = parameter.grad.clone()
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), before - gradient)
    # as ESPnet's --freeze_param does it
    for name, value in model.named_parameters():
        if name.startswith("encoders.0"):
            value.requires_grad = False
    assert not parameter.requires_grad
    assert model.encoders[2].self_attn.linear_q.weight.requires_grad


def test_average_of_two_checkpoints_loads() -> None:
    models = [randomize(encoder(s, experts=EXPERTS, sharing=SHARING), s) for s in (1, 2)]
    states = [model.state_dict() for model in models]
    average = {
        key: value + states[1][key] if value.dtype == torch.int64 else (value + states[1][key]) / 2
        for key, value in states[0].items()
    }
    model = encoder(seed=3, experts=EXPERTS, sharing=SHARING)
    model.load_state_dict(average)
    expected = (
        models[0].encoders[1].feed_forward.experts.w_1
        + models[1].encoders[1].feed_forward.experts.w_1
    ) / 2
    torch.testing.assert_close(model.encoders[0].feed_forward.experts.w_1, expected)
    assert model.encoders[0].feed_forward.experts.w_1 is model.encoders[1].feed_forward.experts.w_1


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        (
            [{"modules": ["self_attn"], "groups": 2}, {"modules": ["*"], "groups": 1}],
            r"sharing\[1\] shares 'self_attn\.[a-z_.]+', which sharing\[0\] shares already",
        ),
        ([{"modules": ["self_atn"], "groups": 2}], "'self_atn' in 'modules' matches no parameter"),
        (
            [{"modules": ["*"], "except": ["*.router"], "groups": 2}],
            r"'\*\.router' in 'except' matches no parameter",
        ),
    ],
)
def test_refused_rules(sharing: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        encoder(sharing=sharing)
    assert "\n" not in str(refused.value)


def test_layers_of_different_shapes_are_refused() -> None:
    from espnet_moe_share.sharing.layers import SharedLayers
    from espnet_moe_share.sharing.rules import parse_rules

    layers = [torch.nn.Sequential(torch.nn.Linear(4, n)) for n in (4, 4, 5)]
    rules = parse_rules([{"modules": ["0.weight"], "groups": 1}], 3)
    message = "shares '0.weight' over layers of different shapes"
    with pytest.raises(ConfigurationError, match=re.escape(message)) as refused:
        SharedLayers(layers, rules)
    assert "layer 2 torch.Size([5, 4])" in str(refused.value)


def test_initialisation_does_not_untie() -> None:
    from espnet2.torch_utils.initialize import initialize

    model = encoder(experts=EXPERTS, sharing=SHARING)
    initialize(model, "xavier_uniform")
    first, second = (model.encoders[n].feed_forward.experts.w_1 for n in (0, 1))
    assert first is second
    assert 0 < first.abs().max() <= tiny_models.ENCODER["output_size"] ** -0.5
