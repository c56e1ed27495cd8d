"""What holds for each of our encoders against the ESPnet encoder that it extends."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.utils.get_default_kwargs import get_default_kwargs
from tiny_models import (
    ENCODERS,
    EXPERTS,
    MELS,
    SHARING,
    batch,
    build,
    encoder,
    encoder_config,
    features,
    randomize,
    save,
)

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.experts.losses import layer_balance_loss, pool_balance_loss, router_z_loss
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.inference import Speech2Text

ABS_POS = {"pos_enc_layer_type": "abs_pos"}
ONE_GROUP = [{**SHARING[0], "groups": 1}]


@pytest.fixture(params=list(ENCODERS))
def name(request: pytest.FixtureRequest) -> str:
    """ESPnet's name of the encoder; ours has moe_share_ before it."""
    return request.param


def ours(name: str, seed: int = 0, **changes: Any) -> Any:
    return encoder(seed, f"moe_share_{name}", **changes)


def feed_forwards(model: Any) -> list[str]:
    return [n for n, _ in model.encoders[0].named_children() if n.startswith("feed_forward")]


def test_signature_is_espnets_plus_ours(name: str) -> None:
    upstream = get_default_kwargs(type(encoder(name=name)))
    extended = get_default_kwargs(type(ours(name)))
    assert len(upstream) > 15
    knobs = ("experts", "low_rank", "sharing", "embedding_network", "gradient_checkpoint_layers")
    own = dict.fromkeys(knobs)
    assert extended == {**upstream, **own}


def test_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="expert_modules"):
        ours(name, expert_modules=["feed_forward"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("conformer", {}),
        ("conformer", {"input_layer": "conv2d6", "macaron_style": False}),
        ("conformer", {"use_sdpa": True}),
        ("transformer", {}),
        ("transformer", {"input_layer": "conv2d6", "normalize_before": False}),
        ("transformer", {"concat_after": True, "positionwise_layer_type": "conv1d"}),
        ("e_branchformer", {}),
        ("e_branchformer", {"input_layer": "conv2d6", "use_ffn": False, "layer_drop_rate": 0.5}),
        ("e_branchformer", {"attention_layer_type": "fast_selfattn", **ABS_POS}),
    ],
)
def test_without_knobs_it_is_espnets_encoder_bit_for_bit(
    name: str, settings: dict[str, Any]
) -> None:
    results = []
    for prefix in ("", "moe_share_"):
        model = encoder(name=prefix + name, **settings)
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
    assert [n for n in grads if grads[n] is None] == [n for n in grads if our_grads[n] is None]
    assert all(torch.equal(grads[n], our_grads[n]) for n in grads if grads[n] is not None)


def test_one_expert_in_shared_layers_equals_espnets_encoder(
    double_precision: None, name: str
) -> None:
    dense = encoder(name=name).eval()
    experts = {"num_experts": 1, "modules": feed_forwards(dense)}
    model = ours(name, experts=experts, sharing=[{"modules": ["*"], "groups": 1}])
    randomize(model).eval()
    dense.embed.load_state_dict(model.embed.state_dict())
    dense.after_norm.load_state_dict(model.after_norm.state_dict())
    for mine, theirs in zip(model.encoders, dense.encoders):
        state = mine.state_dict()
        for module in experts["modules"]:
            del state[f"{module}.router.weight"]
            for n in (1, 2):
                state[f"{module}.w_{n}.weight"] = state.pop(f"{module}.experts.w_{n}")[0]
                state[f"{module}.w_{n}.bias"] = state.pop(f"{module}.experts.b_{n}")[0]
        theirs.load_state_dict(state)
    x, lengths = features()
    expected, got = dense(x, lengths)[0], model(x, lengths)[0]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[row, :length], expected[row, :length])


# The paths that the rule of the main system leaves to every layer.
INDIVIDUAL = {
    "conformer": {
        *("norm_ff", "norm_ff_macaron", "norm_mha", "norm_conv", "norm_final"),
        *("conv_module.norm", "feed_forward.router"),
    },
    "transformer": {
        "norm1",
        "norm2",
        "self_attn.q_norm",
        "self_attn.k_norm",
        "feed_forward.router",
    },
    "e_branchformer": {
        *("norm_ff", "norm_ff_macaron", "norm_mha", "norm_mlp", "norm_final"),
        *("cgmlp.csgu.norm", "feed_forward.router"),
    },
}


def test_norms_and_routers_are_individual_and_all_else_is_shared(name: str) -> None:
    settings = {"qk_norm": True} if name == "transformer" else {}
    model = ours(name, experts=EXPERTS, sharing=SHARING, **settings)
    layers = [
        dict(itertools.chain(layer.named_parameters(), layer.named_buffers()))
        for layer in model.encoders
    ]
    individual = {path for path in layers[0] if layers[0][path] is not layers[1][path]}
    assert {path.rpartition(".")[0] for path in individual} == INDIVIDUAL[name]
    for path in layers[0]:
        tensors = [layer[path] for layer in layers]
        assert len({id(tensor) for tensor in tensors}) == (4 if path in individual else 2), path


def test_state_dict_round_trip(name: str) -> None:
    model = randomize(ours(name, experts=EXPERTS, sharing=SHARING)).eval()
    state = model.state_dict()
    assert sum(key.endswith("feed_forward.experts.w_1") for key in state) == 2
    other = ours(name, seed=5, experts=EXPERTS, sharing=SHARING).eval()
    other.load_state_dict(state)
    x, lengths = features()
    assert torch.equal(other(x, lengths)[0], model(x, lengths)[0])
    with pytest.raises(CheckpointMismatchError, match=r"encoders\.0-1\."):
        ours(name, experts=EXPERTS, sharing=ONE_GROUP).load_state_dict(state)


@pytest.mark.parametrize("sharing", [None, SHARING])
@pytest.mark.parametrize("top_k", [1, 2])
def test_padding_and_batch_do_not_matter(
    double_precision: None, name: str, top_k: int, sharing: Any
) -> None:
    modules = feed_forwards(ours(name))
    experts = {**EXPERTS, "top_k": top_k, "modules": modules}
    model = randomize(ours(name, experts=experts, sharing=sharing)).eval()
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
        assert len(routings) == 4 * len(modules)
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
            torch.cat([c.probabilities_NE for c in calls]),
            torch.cat([c.expert_ids_NK for c in calls]),
            calls[0].experts,
        )
        for calls in zip(*alone_records)
    ]
    apart = [f(merged) for f in (layer_balance_loss, pool_balance_loss, router_z_loss)]
    torch.testing.assert_close(losses, apart)


def test_values_in_padded_frames_do_not_reach_the_routing(
    double_precision: None, name: str
) -> None:
    model = randomize(ours(name, experts=EXPERTS, sharing=SHARING)).eval()
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


def test_eval_is_deterministic(name: str) -> None:
    model = ours(name, experts={**EXPERTS, "top_k": 2}, sharing=SHARING).eval()
    x, lengths = features()
    first = model(x, lengths)[0]
    torch.manual_seed(1234)
    assert torch.equal(model(x, lengths)[0], first)


def test_intermediate_ctc_with_conditioning(name: str) -> None:
    model = ours(
        name,
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


def test_return_all_hs(name: str) -> None:
    model = ours(name, experts=EXPERTS, sharing=SHARING).eval()
    x, lengths = features()
    (y, hidden), _, _ = model(x, lengths, return_all_hs=True)
    assert [h.shape for h in hidden] == [y.shape] * 4
    assert torch.equal(model.after_norm(hidden[-1]), y)


@pytest.mark.parametrize(("input_layer", "frames"), [("conv2d", 6), ("conv2d6", 10)])
def test_too_short_utterance(name: str, input_layer: str, frames: int) -> None:
    model = ours(name, experts=EXPERTS, sharing=SHARING, input_layer=input_layer)
    with pytest.raises(TooShortUttError):
        model(torch.randn(1, frames, MELS), torch.tensor([frames]))
    assert model(torch.randn(1, 20, MELS), torch.tensor([20]))[0].size(1) >= 1


def test_convolutional_or_missing_feed_forward_is_refused() -> None:
    for name, settings in (
        ("conformer", {"positionwise_layer_type": "conv1d"}),
        ("transformer", {"positionwise_layer_type": "conv1d-linear"}),
        ("e_branchformer", {"use_ffn": False}),
    ):
        with pytest.raises(ConfigurationError, match=r"is positionwise_layer_type linear.*use_ffn"):
            ours(name, experts=EXPERTS, **settings)


def test_layer_drop_skips_layers_and_their_routing() -> None:
    model = ours("e_branchformer", experts=EXPERTS, sharing=SHARING, layer_drop_rate=0.999)
    x, lengths = features()
    with record_routing(model) as records:
        model(x, lengths)[0].sum().backward()
    assert set(records) == {f"encoders.{n}.feed_forward" for n in range(4)}
    assert not any(records.values())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("conformer", [1, 2, 4]), ("transformer", [1, 2, 4]), ("e_branchformer", [0, 1, 2, 4])],
)
def test_gradient_checkpointing_changes_nothing(
    double_precision: None, name: str, numbers: list[int]
) -> None:
    """The second forward, in the backward pass, gets the frame mask again and is not recorded."""
    results, states = [], []
    for layers in ([], numbers):
        model = ours(
            name,
            experts={**EXPERTS, "modules": feed_forwards(ours(name))},
            sharing=SHARING,
            gradient_checkpoint_layers=layers,
        )
        randomize(model)
        x, lengths = features()
        runs: list[int] = []
        model.encoders[0].register_forward_pre_hook(lambda *args, runs=runs: runs.append(1))
        torch.manual_seed(3)
        with record_routing(model) as records:
            y = model(x, lengths)[0]
        routings = [routing for calls in records.values() for routing in calls]
        (y.square().sum() + layer_balance_loss(routings) + router_z_loss(routings)).backward()
        assert all(len(calls) == 1 for calls in records.values())
        assert len(runs) == (2 if layers else 1)
        results.append({path: p.grad for path, p in model.named_parameters()})
        states.append(model.state_dict())  # with batch norms' statistics
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value)
    plain, checkpointed = results
    for path, gradient in plain.items():
        torch.testing.assert_close(checkpointed[path], gradient)


@pytest.mark.parametrize("numbers", [[0], [5], [1.0], 3])
def test_layers_that_cannot_be_checkpointed_are_refused(numbers: Any) -> None:
    with pytest.raises(ConfigurationError, match="list of numbers from 1 to 4, of which 1 is the"):
        ours("conformer", gradient_checkpoint_layers=numbers)


@pytest.mark.parametrize("of", ["same", "conformer"])
@pytest.mark.parametrize("name", ["transformer", "e_branchformer"])
def test_train_with_a_teacher_and_decode(tmp_path: Path, name: str, of: str) -> None:
    settings = encoder_config(name if of == "same" else of, model="espnet")
    files = save(tmp_path / "teacher", settings, build(settings, seed=4))
    model_conf = {"balance_weight": 0.1, "distill_weight": 1.0, **files}
    every_expert = {"experts": {"top_k": 4}}  # untrained routers may leave one without a frame
    settings = encoder_config(f"moe_share_{name}", model_conf=model_conf, encoder_conf=every_expert)
    model = build(settings).train()
    torch.manual_seed(0)
    loss, stats, _ = model(**batch())
    assert stats["loss_distill"] > 0
    loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    for layer in model.encoder.encoders:
        assert layer.feed_forward.router.weight.grad.abs().sum() > 0
        assert (layer.feed_forward.experts.w_1.grad.abs().sum(dim=(1, 2)) > 0).all()
    student = save(tmp_path / "student", settings, model)
    search = Speech2Text(*student.values(), beam_size=2, maxlenratio=0.2)
    assert search(np.random.default_rng(0).normal(size=9000).astype(np.float32))
