"""The model moe_share: what it adds to ESPnet's loss, and that it adds nothing unasked."""

from typing import Any

import pytest
import tiny_models
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.utils.get_default_kwargs import get_default_kwargs
from tiny_models import SPECAUG, batch, build, config, dense_config, merge

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.experts.losses import layer_balance_loss, pool_balance_loss, router_z_loss
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.model import MoeShareASRModel


def step(model: Any, seed: int = 3, **settings: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """One training forward and backward from a given random state."""
    model.train()
    torch.manual_seed(seed)
    loss, stats, weight = model(**batch(**settings))
    loss.backward()
    assert weight.tolist() == [3]
    return loss, stats


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


def test_signature_is_espnets_plus_ours() -> None:
    upstream = get_default_kwargs(ESPnetASRModel)
    own = {
        "balance_weight": 0.0,
        "balance_scope": "layer",
        "router_z_weight": 0.0,
        "sparsity_weight": 0.0,
        "importance_weight": 0.0,
        "embedding_ctc_weight": 0.0,
        "distill_weight": 0.0,
        "batch_scope": "global",
        "teacher_config": None,
        "teacher_model_file": None,
        "teacher_output_size": None,
    }
    assert get_default_kwargs(MoeShareASRModel) == {**upstream, **own}


@pytest.mark.parametrize("ctc_weight", [0.0, 0.5, 1.0])
def test_without_weights_it_is_espnets_model_bit_for_bit(ctc_weight: float) -> None:
    settings = dense_config(**SPECAUG, model_conf={"ctc_weight": ctc_weight})
    theirs = build(settings)
    ours = build({**settings, "encoder": "moe_share_conformer", "model": "moe_share"})
    assert type(theirs) is ESPnetASRModel
    assert type(ours) is MoeShareASRModel
    assert list(ours.state_dict()) == list(theirs.state_dict())
    loss, stats = step(theirs)
    our_loss, our_stats = step(ours)
    assert torch.equal(our_loss, loss)
    assert list(our_stats) == list(stats)
    for name, value in stats.items():
        assert value is our_stats[name] is None or torch.equal(our_stats[name], value)
    grads, our_grads = gradients(theirs), gradients(ours)
    for name, gradient in grads.items():
        assert gradient is our_grads[name] is None or torch.equal(our_grads[name], gradient)


@pytest.mark.parametrize("interctc_weight", [0.0, 0.3])
def test_with_experts_and_weights_0_the_loss_is_espnets_part(interctc_weight: float) -> None:
    settings = config(model_conf={"interctc_weight": interctc_weight})
    if interctc_weight:
        settings["encoder_conf"].update(interctc_layer_idx=[2], interctc_use_conditioning=True)
    ours = build(settings)
    espnets = merge(settings, {"model": "espnet"})
    loss, _ = step(build(espnets))
    our_loss, stats = step(ours)
    assert torch.equal(our_loss, loss)
    assert torch.equal(stats["loss"], loss.detach())
    assert not any("balance" in name or "router_z" in name or "distill" in name for name in stats)
    assert stats["layer3_feed_forward_dead_experts"].shape == (1,)


@pytest.mark.parametrize(
    ("scope", "balance"), [("layer", layer_balance_loss), ("pool", pool_balance_loss)]
)
def test_router_losses_are_added_with_their_weights(scope: str, balance: Any) -> None:
    plain = build(config())
    weighted = build(
        config(model_conf={"balance_weight": 0.25, "balance_scope": scope, "router_z_weight": 0.5})
    )
    with record_routing(plain.encoder):
        loss, _ = step(plain)
    total, stats = step(weighted)
    # the model's own record is gone by now; run the same encoder call again
    model = build(config())
    model.train()
    torch.manual_seed(3)
    with record_routing(model.encoder) as records:
        data = batch()
        model.encode(data["speech"], data["speech_lengths"])
    routings = [r for calls in records.values() for r in calls]
    assert len(routings) == 4
    torch.testing.assert_close(stats["loss_balance"], balance(routings).detach().view(1))
    torch.testing.assert_close(stats["loss_router_z"], router_z_loss(routings).detach().view(1))
    assert torch.equal(stats["loss_balance_weighted"], 0.25 * stats["loss_balance"])
    assert torch.equal(stats["loss_router_z_weighted"], 0.5 * stats["loss_router_z"])
    added = stats["loss_balance_weighted"] + stats["loss_router_z_weighted"]
    torch.testing.assert_close(total.detach(), loss.detach() + added)
    assert torch.equal(stats["loss"], total.detach())
    router = "encoder.encoders.2.feed_forward.router.weight"
    assert not torch.allclose(gradients(plain)[router], gradients(weighted)[router])


def test_logged_names(student_settings: dict[str, Any]) -> None:
    _, stats = step(build(student_settings))
    ours = {name for name in stats if name.startswith(("layer", "loss_"))}
    expected = {"loss_ctc", "loss_att"}
    for term in ("balance", "router_z", "distill"):
        expected |= {f"loss_{term}", f"loss_{term}_weighted"}
    for layer in range(4):
        for name in ("largest_share", "dead_experts", "load_entropy"):
            expected.add(f"layer{layer}_feed_forward_{name}")
    assert ours == expected
    for name, value in stats.items():
        # ESPnet's reporter takes tensors of one element each, without graph
        assert value is None or (value.shape == (1,) and not value.requires_grad), name
    total = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_att"]
    total += sum(stats[f"loss_{t}_weighted"] for t in ("balance", "router_z", "distill"))
    torch.testing.assert_close(stats["loss"], total)


def test_every_parameter_has_a_gradient(student_settings: dict[str, Any]) -> None:
    """What torch's DistributedDataParallel demands with find_unused_parameters=False."""
    model = build(student_settings)
    step(model)
    assert [name for name, gradient in gradients(model).items() if gradient is None] == []


def test_validation_logs_the_same_names_and_draws_nothing(student_settings: dict[str, Any]) -> None:
    model = build(student_settings)
    _, train_stats = step(model)
    model.eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        first = model(**batch())
        second = model(**batch())
    assert torch.equal(first[0], second[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert {k for k, v in train_stats.items() if v is not None} <= set(first[1])


def test_collect_feats_needs_no_teacher(student_settings: dict[str, Any]) -> None:
    settings = merge(student_settings, {"model_conf": {"teacher_config": "gone/config.yaml"}})
    model = build(settings)
    assert model.collect_feats(**batch())["feats"].size(-1) == tiny_models.MELS


@pytest.mark.parametrize(
    ("model_conf", "message"),
    [
        ({"balance_weight": "1e-3"}, "balance_weight must be a number.*write 1.0e-3"),
        ({"distill_weight": -1.0}, "distill_weight must be a number of 0 or more, not -1.0"),
        ({"router_z_weight": None}, "router_z_weight must be a number of 0 or more, not None"),
        ({"balance_scope": "all"}, "balance_scope must be layer or pool, not 'all'"),
        ({"batch_scope": "all"}, "batch_scope must be global or local, not 'all'"),
        ({"teacher_config": "a.yaml"}, "both teacher_config and teacher_model_file, or neither"),
        ({"teacher_model_file": "a.pth"}, "both teacher_config and teacher_model_file"),
    ],
)
def test_refused_settings(model_conf: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        build(config(model_conf=model_conf))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["balance_weight", "router_z_weight", "sparsity_weight", "importance_weight"]
)
def test_router_loss_without_experts_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is 0.1, but the encoder has no experts"):
        build(dense_config(model="moe_share", model_conf={name: 0.1}))


def test_espnets_dense_encoder_can_be_distilled(teacher: dict[str, str]) -> None:
    settings = dense_config(model="moe_share", model_conf={"distill_weight": 1.0, **teacher})
    loss, stats = step(build(settings))
    espnets = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_att"]
    torch.testing.assert_close(loss.detach(), espnets + stats["loss_distill"])


@pytest.mark.parametrize("strict", [True, False])
def test_loading_is_strict_whatever_the_caller_says(strict: bool) -> None:
    model = build(config())
    state = model.state_dict()
    model.load_state_dict(state, strict=strict)
    state["surplus"] = state.pop("ctc.ctc_lo.bias")
    with pytest.raises(CheckpointMismatchError, match=r"needs ctc\.ctc_lo\.bias; .*has surplus"):
        model.load_state_dict(state, strict=strict)


def test_student_can_be_seeded_from_part_of_a_teacher(
    teacher: dict[str, str], student_settings: dict[str, Any]
) -> None:
    """ESPnet's --init_param file:source:destination goes through strict loading."""
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    model = build(student_settings)
    file = teacher["teacher_model_file"]
    load_pretrained_model(f"{file}:encoder.embed:encoder.embed", model, False)
    theirs = torch.load(file)["encoder.embed.conv.0.weight"]
    assert torch.equal(model.encoder.embed.conv[0].weight, theirs)
