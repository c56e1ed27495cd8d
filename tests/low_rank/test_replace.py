"""The knob low_rank in the layers of our encoders."""

from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, batch, build, config, encoder, features, randomize

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.low_rank.linear import LowRankLinear

ATTENTION = ["linear_q", "linear_k", "linear_v", "linear_out", "linear_pos"]


def factored(layer: torch.nn.Module) -> dict[str, int]:
    return {
        path: module.down.weight.size(0)
        for path, module in layer.named_modules()
        if isinstance(module, LowRankLinear)
    }


def test_named_weights_of_every_layer_are_replaced_and_no_others() -> None:
    low_rank = [
        {"modules": ["self_attn", "conv_module.pointwise_conv*"], "rank": 3},
        {"modules": ["*.w_1"], "rank": 2},
    ]
    model = encoder(low_rank=low_rank)
    expected = dict.fromkeys([f"self_attn.{name}" for name in ATTENTION], 3)
    expected |= dict.fromkeys(["conv_module.pointwise_conv1", "conv_module.pointwise_conv2"], 3)
    expected |= {"feed_forward.w_1": 2, "feed_forward_macaron.w_1": 2}
    for layer in model.encoders:
        assert factored(layer) == expected
        assert isinstance(layer.conv_module.pointwise_conv1.up, torch.nn.Conv1d)
        assert layer.self_attn.linear_pos.up.bias is None
        assert type(layer.conv_module.depthwise_conv) is torch.nn.Conv1d
        assert type(layer.feed_forward.w_2) is torch.nn.Linear


@pytest.mark.parametrize(
    ("name", "settings", "left"),
    [
        ("conformer", {}, []),
        ("conformer", {"use_sdpa": True}, []),
        ("conformer", {"rel_pos_type": "legacy"}, []),
        ("conformer", {"positionwise_layer_type": "conv1d"}, []),
        ("transformer", {"concat_after": True, "qk_norm": True}, []),
        ("e_branchformer", {"use_linear_after_conv": True}, ["cgmlp.csgu.linear"]),
        (
            "e_branchformer",
            {"attention_layer_type": "fast_selfattn", "pos_enc_layer_type": "abs_pos"},
            ["attn.query_att", "attn.key_att"],
        ),
    ],
)
def test_all_at_once_trains_a_step(name: str, settings: dict[str, Any], left: list[str]) -> None:
    """``left``: what keeps its full rank, because it is not reached or too small for the rank."""
    patterns = ["*"] if "attn.query_att" not in left else ["cgmlp", "attn.query", "attn.transform"]
    sharing = [{"modules": ["*.up.weight"], "groups": 2}]
    low_rank = [{"modules": patterns, "rank": 4}]
    model = encoder(name=f"moe_share_{name}", low_rank=low_rank, sharing=sharing, **settings)
    linear = [p for p, m in model.encoders[0].named_modules() if type(m) is torch.nn.Linear]
    full = [path for path in linear if not path.endswith((".up", ".down"))]
    assert set(left) <= set(full) and (patterns != ["*"] or left == full)
    x, lengths = features(lengths=(60, 41))
    model(x, lengths)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_experts_and_routers_keep_their_full_rank() -> None:
    low_rank = [{"modules": ["self_attn", "feed_forward_macaron"], "rank": 4}]
    model = encoder(experts=EXPERTS, low_rank=low_rank)
    assert model.encoders[0].feed_forward.experts.w_1.shape == (4, 12, 8)
    assert "feed_forward_macaron.w_2" in factored(model.encoders[0])
    for pattern in ("feed_forward", "*", "*.experts.w_1", "feed_forward.router"):
        with pytest.raises(
            ConfigurationError,
            match=r"low_rank\[0\]: '.*' in 'modules' reaches 'feed_forward\..*but experts and "
            r"routers keep their full rank; name others of self_attn.linear_q",
        ):
            encoder(experts=EXPERTS, low_rank=[{"modules": [pattern], "rank": 2}])


RANK_2 = {"modules": ["self_attn"], "rank": 2}


@pytest.mark.parametrize(
    ("low_rank", "message"),
    [
        (RANK_2, r"low_rank must be a list of mappings with modules and rank"),
        (["self_attn"], r"low_rank\[0\] must be a mapping with modules and rank"),
        (
            [{**RANK_2, "ranks": 3}],
            r"low_rank\[0\]: unknown key 'ranks'; the keys are modules, rank",
        ),
        ([RANK_2, {"modules": ["*.w_1"]}], r"low_rank\[1\]: 'rank' is missing"),
        ([{"rank": 2}], r"low_rank\[0\]: 'modules' is missing"),
        ([{**RANK_2, "modules": []}], r"'modules' must be a list such as"),
        ([{**RANK_2, "modules": "self_attn"}], r"'modules' must be a list such as"),
        ([{**RANK_2, "rank": 0}], r"'rank' must be 1 or more, not 0"),
        ([{**RANK_2, "rank": "2"}], r"'rank' must be 1 or more, not '2'"),
        ([{**RANK_2, "rank": 2.0}], r"'rank' must be 1 or more, not 2.0"),
        (
            [{"modules": ["feed_forward.w_1"], "rank": 9}],
            r"'rank' 9 is more than 8, the full rank of 'feed_forward.w_1' \(12 x 8\)",
        ),
        (
            [{"modules": ["self_attn.linear_w"], "rank": 2}],
            r"'self_attn.linear_w' in 'modules' matches no linear layer or 1x1 convolution of an "
            r"encoder layer; those are self_attn.linear_q, .*conv_module.pointwise_conv1",
        ),
        ([{"modules": ["conv_module.depthwise_conv"], "rank": 2}], r"matches no linear layer"),
        ([{"modules": ["norm_ff"], "rank": 2}], r"matches no linear layer"),
        (
            [RANK_2, {"modules": ["*.linear_q"], "rank": 3}],
            r"low_rank\[1\] names 'self_attn.linear_q', which low_rank\[0\] names already",
        ),
    ],
)
def test_refused(low_rank: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        encoder(low_rank=low_rank)
    assert "\n" not in str(refused.value)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.encoders.parameters())


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_number_of_parameters(groups: int) -> None:
    """R (M + N) for M N; of four layers, the shared factor counts once for each group."""
    dense = count(encoder(output_size=16, linear_units=24))
    low_rank = [
        {"modules": ["self_attn.linear_v"], "rank": 5},
        {"modules": ["conv_module.pointwise_conv1"], "rank": 3},
    ]
    sharing = [
        {"modules": ["*.linear_v.up.weight", "*.pointwise_conv1.down"], "groups": groups},
    ]
    model = encoder(output_size=16, linear_units=24, low_rank=low_rank, sharing=sharing)
    individual = 4 * (5 * 16 + 3 * 32)
    shared = groups * (5 * 16 + 3 * 16)
    assert count(model) == dense - 4 * (16 * 16 + 32 * 16) + individual + shared


SHARED_UP = [{"modules": ["self_attn.linear_*.up.weight"], "groups": [[0, 1, 3]]}]


def test_gradients_of_a_shared_factor_add(double_precision: None) -> None:
    low_rank = [{"modules": ["self_attn"], "rank": 3}]
    shared = randomize(encoder(low_rank=low_rank, sharing=SHARED_UP)).eval()
    single = encoder(low_rank=low_rank).eval()
    for mine, theirs in zip(single.encoders, shared.encoders):
        mine.load_state_dict(theirs.state_dict())
    single.embed.load_state_dict(shared.embed.state_dict())
    single.after_norm.load_state_dict(shared.after_norm.state_dict())
    x, lengths = features()
    for model in (shared, single):
        model(x, lengths)[0].square().sum().backward()
    factors = [layer.self_attn.linear_v for layer in shared.encoders]
    assert factors[0].up.weight is factors[3].up.weight
    assert factors[0].up.weight is not factors[2].up.weight
    assert factors[0].down.weight is not factors[3].down.weight
    apart = [layer.self_attn.linear_v for layer in single.encoders]
    for n in range(4):
        torch.testing.assert_close(factors[n].down.weight.grad, apart[n].down.weight.grad)
    total = sum(apart[n].up.weight.grad for n in (0, 1, 3))
    torch.testing.assert_close(factors[0].up.weight.grad, total)
    torch.testing.assert_close(factors[2].up.weight.grad, apart[2].up.weight.grad)


def test_checkpoint_holds_a_shared_factor_once_and_another_rank_is_refused() -> None:
    def model(rank: int, seed: int = 0) -> Any:
        low_rank = [{"modules": ["self_attn"], "rank": rank}]
        sharing = [{"modules": ["self_attn.*.up.weight"], "groups": 1}]
        knobs = {"experts": EXPERTS, "low_rank": low_rank, "sharing": sharing}
        return build(config(encoder_conf=knobs), seed)

    state = randomize(model(3)).state_dict()
    ups = [key for key in state if key.endswith("linear_q.up.weight")]
    assert ups == ["encoder.encoders.0-3.self_attn.linear_q.up.weight"]
    assert sum(key.endswith("linear_q.down.weight") for key in state) == 4
    other = model(3, seed=5)
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    with pytest.raises(CheckpointMismatchError, match=r"linear_.*\.(up|down)\.weight \("):
        model(4).load_state_dict(state)


def test_quantised_to_8_bits_as_espnets_decoding_does() -> None:
    model = randomize(encoder(low_rank=[{"modules": ["*"], "rank": 4}])).eval()
    x, lengths = features()
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    assert type(quantised.encoders[0].self_attn.linear_q.down) is not torch.nn.Linear
    torch.testing.assert_close(quantised(x, lengths)[0], model(x, lengths)[0], atol=0.2, rtol=0)


def test_student_with_factors_learns_from_a_teacher(teacher: dict[str, str]) -> None:
    low_rank = [{"modules": ["self_attn", "conv_module"], "rank": 4}]
    sharing = [{"modules": ["*.up.weight", "feed_forward.experts"], "groups": 2}]
    settings = config(
        encoder_conf={"low_rank": low_rank, "sharing": sharing},
        model_conf={"balance_weight": 0.1, "distill_weight": 1.0, **teacher},
    )
    model = build(settings).train()
    loss, stats, _ = model(**batch())
    loss.backward()
    assert stats["loss_distill"] > 0
    for layer in model.encoder.encoders:
        assert layer.conv_module.pointwise_conv2.down.weight.grad.abs().sum() > 0
