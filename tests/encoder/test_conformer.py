"""The encoder moe_share_conformer against ESPnet's ConformerEncoder."""

import itertools
from typing import Any

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.utils.get_default_kwargs import get_default_kwargs
from tiny_models import ENCODER, EXPERTS, MELS, SHARING, encoder, features, randomize

from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.losses import layer_balance_loss, pool_balance_loss, router_z_loss
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.sharing.layers import SharedLayers


def test_signature_is_espnets_plus_ours() -> None:
    upstream = get_default_kwargs(ConformerEncoder)
    ours = get_default_kwargs(MoeShareConformerEncoder)
    assert len(upstream) > 25
    assert ours == {**upstream, "experts": None, "sharing": None}


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="expert_modules"):
        encoder(expert_modules=["feed_forward"])


@pytest.mark.parametrize(
    "settings", [{}, {"input_layer": "conv2d6", "macaron_style": False}, {"use_sdpa": True}]
)
def test_without_knobs_it_is_espnets_encoder_bit_for_bit(settings: dict[str, Any]) -> None:
    results = []
    for cls in (ConformerEncoder, MoeShareConformerEncoder):
        torch.manual_seed(0)
        model = cls(MELS, **{**ENCODER, "input_layer": "linear", **settings})
        x, lengths = features(lengths=(40, 31))
        y, y_lengths, _ = model(x, lengths)  # train mode, dropout active
        y.sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((model.state_dict(), y, y_lengths, gradients))
    (state, y, y_lengths, grads), (our_state, our_y, our_lengths, our_grads) = results
    assert list(state) == list(our_state)
    assert all(torch.equal(state[key], our_state[key]) for key in state)
    assert torch.equal(y, our_y)
    assert torch.equal(y_lengths, our_lengths)
    assert all(torch.equal(grads[name], our_grads[name]) for name in grads)


def test_one_expert_in_shared_layers_equals_espnets_encoder(double_precision: None) -> None:
    ours = randomize(
        encoder(experts={**EXPERTS, "num_experts": 1}, sharing=[{"modules": ["*"], "groups": 1}])
    ).eval()
    dense = ConformerEncoder(MELS, **{**ENCODER, "input_layer": "linear"}).eval()
    dense.embed.load_state_dict(ours.embed.state_dict())
    dense.after_norm.load_state_dict(ours.after_norm.state_dict())
    for mine, theirs in zip(ours.encoders, dense.encoders):
        state = mine.state_dict()
        del state["feed_forward.router.weight"]
        for n in (1, 2):
            state[f"feed_forward.w_{n}.weight"] = state.pop(f"feed_forward.experts.w_{n}")[0]
            state[f"feed_forward.w_{n}.bias"] = state.pop(f"feed_forward.experts.b_{n}")[0]
        theirs.load_state_dict(state)
    x, lengths = features()
    expected, got = dense(x, lengths)[0], ours(x, lengths)[0]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[row, :length], expected[row, :length])


@pytest.mark.parametrize("sharing", [None, SHARING])
@pytest.mark.parametrize("top_k", [1, 2])
def test_padding_and_batch_do_not_matter(double_precision: None, top_k: int, sharing: Any) -> None:
    experts = {**EXPERTS, "top_k": top_k, "modules": ["feed_forward", "feed_forward_macaron"]}
    model = randomize(encoder(experts=experts, sharing=sharing)).eval()
    x, lengths = features()
    outputs, losses = [], []
    for frames in (20, 33):
        padded = torch.zeros(3, frames, MELS)
        padded[:, :20] = x
        # ESPnet's encoder takes its mask from the lengths: the fourth utterance is the padding
        filler = torch.zeros(1, frames, MELS)
        batch = torch.cat([padded, filler]) if frames > 20 else padded
        batch_lengths = torch.cat([lengths, torch.tensor([frames])]) if frames > 20 else lengths
        with record_routing(model) as records:
            outputs.append(model(batch, batch_lengths)[0])
        if frames > 20:
            continue
        routings = [r for calls in records.values() for r in calls]
        assert len(routings) == 8
        assert all(len(r.logits_NE) == int(lengths.sum()) for r in routings)
        losses = [f(routings) for f in (layer_balance_loss, pool_balance_loss, router_z_loss)]
    alone_records = []
    for row, length in enumerate(lengths):
        with record_routing(model) as records:
            alone = model(x[row : row + 1, :length], lengths[row : row + 1])[0]
        alone_records.append([r for calls in records.values() for r in calls])
        for output in outputs:
            torch.testing.assert_close(output[row, :length], alone[0])
    merged = [
        type(calls[0])(
            torch.cat([c.logits_NE for c in calls]),
            torch.cat([c.expert_ids_NK for c in calls]),
            calls[0].experts,
        )
        for calls in zip(*alone_records)
    ]
    apart = [f(merged) for f in (layer_balance_loss, pool_balance_loss, router_z_loss)]
    torch.testing.assert_close(losses, apart)


def test_values_in_padded_frames_do_not_reach_the_routing(double_precision: None) -> None:
    model = randomize(encoder(experts=EXPERTS, sharing=SHARING)).eval()
    x, lengths = features()
    noisy = x.clone()
    noisy[1, 15:], noisy[2, 9:] = 50.0, -50.0
    with record_routing(model) as first:
        y = model(x, lengths)[0]
    with record_routing(model) as second:
        noisy_y = model(noisy, lengths)[0]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(y[row, :length], noisy_y[row, :length])
    for path, calls in first.items():
        torch.testing.assert_close(calls[0].logits_NE, second[path][0].logits_NE)


def test_eval_is_deterministic() -> None:
    model = encoder(experts={**EXPERTS, "top_k": 2}, sharing=SHARING).eval()
    x, lengths = features()
    first = model(x, lengths)[0]
    torch.manual_seed(1234)
    assert torch.equal(model(x, lengths)[0], first)


def test_intermediate_ctc_with_conditioning() -> None:
    model = encoder(
        experts=EXPERTS,
        sharing=SHARING,
        interctc_layer_idx=[1, 3],
        interctc_use_conditioning=True,
    )
    model.conditioning_layer = torch.nn.Linear(7, 8)
    ctc = CTC(odim=7, encoder_output_size=8)
    x, lengths = features()
    (y, intermediate), y_lengths, _ = model(x, lengths, ctc=ctc)
    assert [layer for layer, _ in intermediate] == [1, 3]
    assert all(out.shape == y.shape for _, out in intermediate)
    assert torch.equal(y_lengths, lengths)
    y.sum().backward()
    assert model.conditioning_layer.weight.grad.abs().sum() > 0
    # the conditioning is heard by the layers behind it
    model.eval()
    heard = model(x, lengths, ctc=ctc)[0][0]
    torch.nn.init.normal_(model.conditioning_layer.weight)
    assert not torch.allclose(model(x, lengths, ctc=ctc)[0][0], heard)


def test_return_all_hs() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING).eval()
    x, lengths = features()
    (y, hidden), _, _ = model(x, lengths, return_all_hs=True)
    assert [h.shape for h in hidden] == [y.shape] * 4
    assert torch.equal(model.after_norm(hidden[-1]), y)


@pytest.mark.parametrize(("input_layer", "frames"), [("conv2d", 6), ("conv2d6", 10)])
def test_too_short_utterance(input_layer: str, frames: int) -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING, input_layer=input_layer)
    with pytest.raises(TooShortUttError):
        model(torch.randn(1, frames, MELS), torch.tensor([frames]))
    assert model(torch.randn(1, 20, MELS), torch.tensor([20]))[0].size(1) >= 1


def test_stochastic_depth_skips_layers_and_their_routing() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING, stochastic_depth_rate=[0.0, 0.999, 0.0, 0.0])
    x, lengths = features()
    with record_routing(model) as records:
        model(x, lengths)[0].sum().backward()
    ran = {path: len(calls) for path, calls in records.items()}
    assert ran == {f"encoders.{n}.feed_forward": int(n != 1) for n in range(4)}
    model.eval()
    with record_routing(model) as records:
        model(x, lengths)
    assert all(len(calls) == 1 for calls in records.values())


COMBINATIONS = itertools.product(
    [None, EXPERTS, {**EXPERTS, "top_k": 2, "modules": ["feed_forward", "feed_forward_macaron"]}],
    [None, SHARING, "all"],
    [{}, {"use_sdpa": True}, {"stochastic_depth_rate": 0.3}],
)


@pytest.mark.parametrize(("experts", "sharing", "settings"), COMBINATIONS)
def test_every_combination_trains_a_step(experts: Any, sharing: Any, settings: Any) -> None:
    if sharing == "all":
        sharing = [{"modules": ["*"], "groups": 2, "order": "cyclic"}]
    elif sharing and experts is None:
        sharing = [{**sharing[0], "except": ["*norm*"]}]
    model = encoder(experts=experts, sharing=sharing, input_layer="conv2d6", **settings)
    x, lengths = features(lengths=(60, 41))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    model(x, lengths)[0].square().sum().backward()
    if "stochastic_depth_rate" not in settings:
        assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    used = [p.grad is not None for p in model.parameters()]
    assert all(u for m, u in zip(moved, used) if m)
    assert sum(moved) > 0.8 * sum(used)
    assert all(p.isfinite().all() for p in model.parameters())


def test_experts_replace_the_named_feed_forwards_only() -> None:
    model = encoder(experts={"num_experts": 3, "modules": ["feed_forward_macaron"]})
    for layer in model.encoders:
        assert isinstance(layer.feed_forward_macaron, MixtureOfExperts)
        assert not isinstance(layer.feed_forward, MixtureOfExperts)
        assert layer.feed_forward_macaron.experts.w_1.shape == (3, 12, 8)
        assert layer.feed_forward_macaron.router.top_k == 1
    assert not isinstance(model.encoders, SharedLayers)
    default = encoder(experts={"num_experts": 2})
    assert isinstance(default.encoders[0].feed_forward, MixtureOfExperts)
    assert not isinstance(default.encoders[0].feed_forward_macaron, MixtureOfExperts)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({}, "'num_experts' is missing"),
        ({"num_experts": 4, "topk": 1}, "unknown key 'topk'; the keys are num_experts, top_k"),
        ({"num_experts": 0}, "'num_experts' must be 1 or more, not 0"),
        ({"num_experts": "4"}, "'num_experts' must be 1 or more, not '4'"),
        ({"num_experts": 4, "top_k": 5}, r"'top_k' must be 1 to num_experts \(4\), not 5"),
        ({"num_experts": 4, "top_k": 0}, r"'top_k' must be 1 to num_experts \(4\), not 0"),
        ({"num_experts": 4, "modules": []}, "'modules' must be a list such as"),
        ({"num_experts": 4, "modules": "feed_forward"}, "'modules' must be a list such as"),
        (
            {"num_experts": 4, "modules": ["self_attn"]},
            "'self_attn' in 'modules' is no linear feed-forward of an encoder layer; "
            "those are feed_forward, feed_forward_macaron",
        ),
    ],
)
def test_refused_experts(experts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        encoder(experts=experts)
    assert "\n" not in str(refused.value)


def test_feed_forward_macaron_without_macaron_style_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'feed_forward_macaron'.*are feed_forward$"):
        encoder(experts={**EXPERTS, "modules": ["feed_forward_macaron"]}, macaron_style=False)


def test_convolutional_feed_forward_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is positionwise_layer_type linear"):
        encoder(experts=EXPERTS, positionwise_layer_type="conv1d")
