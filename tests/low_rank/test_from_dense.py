"""Layers with factors and shared tensors that start from a dense model's."""

from typing import Any

import pytest
import torch
from tiny_models import ENCODERS, encoder, features, randomize

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.low_rank.from_dense import Reconstruction, initialize_from_dense

FULL = 8  # the smaller side of every weight in the layers of tiny_models


def dense_encoder(name: str = "conformer", **changes: Any) -> Any:
    return randomize(encoder(name=name, **changes)).eval()


def started(dense: Any, name: str = "conformer", **knobs: Any) -> tuple[Any, list[Reconstruction]]:
    """Our encoder from another seed, with the dense encoder's values."""
    model = encoder(seed=3, name=f"moe_share_{name}", **knobs).eval()
    reconstructions = initialize_from_dense(model.encoders, dense.encoders)
    model.embed.load_state_dict(dense.embed.state_dict())
    model.after_norm.load_state_dict(dense.after_norm.state_dict())
    return model, reconstructions


@pytest.mark.parametrize("name", ENCODERS)
def test_full_rank_equals_the_dense_layers(double_precision: None, name: str) -> None:
    dense = dense_encoder(name)
    model, found = started(dense, name, low_rank=[{"modules": ["*"], "rank": FULL}])
    if name == "conformer":
        assert isinstance(model.encoders[0].conv_module.pointwise_conv1.up, torch.nn.Conv1d)
        assert len(found) == 4 * (5 + 2 * 2 + 2)
    x, lengths = features()
    torch.testing.assert_close(model(x, lengths)[0], dense(x, lengths)[0])
    assert all(one.error < 1e-12 and one.rank == FULL for one in found)


def test_lower_rank_is_near_and_the_printed_errors_are_those_of_the_weights(
    double_precision: None,
) -> None:
    dense = dense_encoder()
    low_rank = [{"modules": ["self_attn.linear_q", "conv_module.pointwise_conv1"], "rank": 3}]
    model, found = started(dense, low_rank=low_rank)
    assert [(one.path, one.layer, one.shape, one.rank) for one in found] == [
        (path, layer, shape, 3)
        for path, shape in (
            ("self_attn.linear_q.weight", (8, 8)),
            ("conv_module.pointwise_conv1.weight", (16, 8, 1)),
        )
        for layer in range(4)
    ]
    for one in found:
        weight = dense.encoders[one.layer].get_parameter(one.path).detach().flatten(1)
        values = torch.linalg.svdvals(weight)
        expected = values[3:].square().sum().sqrt() / values.square().sum().sqrt()
        assert one.error == pytest.approx(expected.item())
    assert torch.equal(model.encoders[2].norm_ff.weight, dense.encoders[2].norm_ff.weight)
    bias = dense.encoders[2].self_attn.linear_q.bias
    assert torch.equal(model.encoders[2].self_attn.linear_q.up.bias, bias)


def test_shared_tensors_are_the_mean_and_their_distance_is_told(double_precision: None) -> None:
    dense = dense_encoder()
    sharing = [{"modules": ["feed_forward", "conv_module.norm"], "groups": [[0, 2, 3]]}]
    for layer in dense.encoders:
        layer.conv_module.norm.num_batches_tracked.fill_(17)
    model, found = started(dense, sharing=sharing)
    for path in ("feed_forward.w_1.weight", "feed_forward.w_2.bias", "conv_module.norm.weight"):
        group = [dense.encoders[n].get_parameter(path) for n in (0, 2, 3)]
        torch.testing.assert_close(model.encoders[3].get_parameter(path), sum(group) / 3)
        assert torch.equal(
            model.encoders[1].get_parameter(path), dense.encoders[1].get_parameter(path)
        )
    variances = [dense.encoders[n].conv_module.norm.running_var for n in (0, 2, 3)]
    torch.testing.assert_close(model.encoders[0].conv_module.norm.running_var, sum(variances) / 3)
    assert model.encoders[0].conv_module.norm.num_batches_tracked == 17
    errors = {one.layer: one.error for one in found if one.path == "feed_forward.w_1.weight"}
    weights = [layer.feed_forward.w_1.weight for layer in dense.encoders]
    mean = (weights[0] + weights[2] + weights[3]) / 3
    expected = ((weights[2] - mean).norm() / weights[2].norm()).item()
    assert errors[2] == pytest.approx(expected) and errors[1] == 0
    assert {one.path for one in found} == {"feed_forward.w_1.weight", "feed_forward.w_2.weight"}
    assert all(one.rank is None for one in found)


def test_one_shared_factor_beside_individual_ones(double_precision: None) -> None:
    dense = dense_encoder()
    low_rank = [{"modules": ["self_attn.linear_v", "feed_forward.w_2"], "rank": 3}]
    sharing = [{"modules": ["*.linear_v.up.weight", "*.w_2.down.weight"], "groups": 2}]
    model, found = started(dense, low_rank=low_rank, sharing=sharing)
    for path, side in (("self_attn.linear_v.weight", 1), ("feed_forward.w_2.weight", 0)):
        weights = [layer.get_parameter(path).detach() for layer in dense.encoders]
        told = [one.error for one in found if one.path == path]
        for group in ([0, 1], [2, 3]):
            values = torch.linalg.svdvals(torch.cat([weights[n] for n in group], dim=side))
            squares = [(told[n] * weights[n].norm().item()) ** 2 for n in group]
            assert sum(squares) == pytest.approx(values[3:].square().sum().item())
    projections = [layer.self_attn.linear_v for layer in model.encoders]
    assert projections[2].up.weight is projections[3].up.weight
    x, lengths = features()
    assert not torch.allclose(model(x, lengths)[0], dense(x, lengths)[0])


def test_started_from_a_model_that_has_factors_and_shared_layers(double_precision: None) -> None:
    knobs: dict[str, Any] = {
        "low_rank": [{"modules": ["self_attn"], "rank": 3}],
        "sharing": [{"modules": ["*"], "groups": 2}],
    }
    source = randomize(encoder(**knobs)).eval()
    knobs["low_rank"][0]["rank"] = 5
    model, found = started(source, **knobs)
    assert max(one.error for one in found) < 1e-12
    x, lengths = features()
    torch.testing.assert_close(model(x, lengths)[0], source(x, lengths)[0])


ROWS = [{"modules": ["self_attn.linear_q"], "rank": 3}]


@pytest.mark.parametrize(
    ("source", "knobs", "message"),
    [
        ({"num_blocks": 3}, {}, "the dense model has 3 encoder layers, the new one 4"),
        (
            {"linear_units": 10},
            {},
            r"layer 0: 'feed_forward.w_1.weight' is \(10, 8\) in the dense model and \(12, 8\)",
        ),
        (
            {"macaron_style": False},
            {},
            "layer 0 of the new model has 'feed_forward_macaron.w_1.bias', that of the dense model",
        ),
        (
            {},
            {"experts": {"num_experts": 2}},
            "layer 0 of the new model has 'feed_forward.experts.b_1'",
        ),
        (
            {},
            {
                "sharing": [
                    {"modules": ["*.linear_q.up"], "groups": 2},
                    {"modules": ["*.linear_q.down"], "groups": 2, "order": "cyclic"},
                ]
            },
            "'self_attn.linear_q': the groups of layers that share 'up' and those .* cross",
        ),
    ],
)
def test_refused(source: dict[str, Any], knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        started(encoder(name="conformer", **source), low_rank=ROWS, **knobs)
    assert "\n" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused() -> None:
    dense = dense_encoder()
    with torch.no_grad():
        dense.encoders[2].self_attn.linear_q.weight[0, 0] = float("nan")
    with pytest.raises(ConfigurationError, match=r"layer 2: 'self_attn.linear_q.weight' .*finite"):
        started(dense, low_rank=ROWS)
