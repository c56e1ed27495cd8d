"""SpeechMoE as a whole: losses, training, resuming, decoding, with a teacher and as one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from espnet2.asr.ctc import CTC
from tiny_models import batch, build, config, encoder_config, save, speechmoe_config

from espnet_moe_share.bin.expert_usage import main as expert_usage
from espnet_moe_share.encoder.embedding_network import record_embedding
from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.experts.losses import importance_loss, sparsity_loss
from espnet_moe_share.experts.recording import record_routing

WEIGHTS = {"sparsity": 0.15, "importance": 0.15, "embedding_ctc": 0.01}
NETWORK = "encoder.embedding_network."


def step(model: Any, seed: int = 3) -> tuple[torch.Tensor, Any]:
    """Loss and figures of a training step from a given random state, and its gradients."""
    model.train()
    torch.manual_seed(seed)
    loss, stats, _ = model(**batch(seed=seed))
    model.zero_grad()
    loss.backward()
    return loss.detach(), stats


def test_losses_are_added_with_their_weights() -> None:
    model = build(speechmoe_config()).eval()
    data = batch()
    with torch.no_grad(), record_routing(model.encoder) as records:
        with record_embedding(model.encoder.embedding_network) as embeddings:
            model.encode(data["speech"], data["speech_lengths"])
        loss, stats, _ = model(**data)
    routings = [calls[0] for calls in records.values()]
    assert len(routings) == 4
    # ESPnet's own CTC with the same weights, on the embedding
    ((embedding, lengths),) = embeddings
    ctc = CTC(odim=7, encoder_output_size=6)
    ctc.load_state_dict(model.embedding_ctc.state_dict())
    expected = {
        "sparsity": sparsity_loss(routings),
        "importance": importance_loss(routings),
        "embedding_ctc": ctc(embedding, lengths, data["text"], data["text_lengths"]),
    }
    total = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_att"]
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(stats[f"loss_{name}"], expected[name].view(1))
        torch.testing.assert_close(stats[f"loss_{name}_weighted"], weight * stats[f"loss_{name}"])
        total = total + weight * expected[name]
    torch.testing.assert_close(loss, total)
    assert torch.equal(stats["loss"], loss)


def test_all_weights_0_is_espnets_loss() -> None:
    weights = {f"{name}_weight": 0.0 for name in WEIGHTS}
    network = {"embedding_network": {"detach": False}}
    settings = speechmoe_config(encoder_conf=network, model_conf=weights)
    espnets = {**settings, "model": "espnet", "model_conf": config()["model_conf"]}
    ours = build(settings)
    loss, stats = step(ours)
    assert torch.equal(loss, step(build(espnets))[0])
    assert not any("embedding" in name or "sparsity" in name for name in stats)
    assert ours.embedding_ctc is None


def test_the_embeddings_ctc_trains_the_network_and_what_is_before_it() -> None:
    model = build(speechmoe_config())
    data = batch()
    with record_embedding(model.encoder.embedding_network) as embeddings:
        model.encode(data["speech"], data["speech_lengths"])
    model.embedding_ctc(*embeddings[0], data["text"], data["text_lengths"]).backward()
    touched = {path for path, p in model.named_parameters() if p.grad is not None}
    trained = (NETWORK, "encoder.embed.", "embedding_ctc.")
    assert touched == {path for path, _ in model.named_parameters() if path.startswith(trained)}


@pytest.mark.parametrize("detach", [True, False])
def test_every_parameter_has_a_gradient(detach: bool) -> None:
    """What torch's DistributedDataParallel demands with find_unused_parameters=False."""
    weight = 0.01 if detach else 0.0
    model = build(
        speechmoe_config(
            encoder_conf={"embedding_network": {"detach": detach}},
            model_conf={"embedding_ctc_weight": weight},
        )
    )
    step(model)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_network_that_learns_from_nothing_is_refused_unless_it_is_frozen() -> None:
    model = build(speechmoe_config(model_conf={"embedding_ctc_weight": 0.0}))
    model.eval()
    with pytest.raises(ConfigurationError, match=r"learn from nothing.*embedding_ctc_weight is 0"):
        model.train()
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(not path.startswith(NETWORK))  # as ESPnet's freeze_param does
    step(model)


def test_ctc_without_a_network_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"embedding_ctc_weight is 0\.01, but the encoder"):
        build(config(model_conf={"embedding_ctc_weight": 0.01}))


def test_checkpoint_of_another_embedding_is_refused() -> None:
    state = build(speechmoe_config()).state_dict()
    for changes, message in (
        ({"embedding_network": {"output_size": 4}}, r"ctc_lo\.weight \(7, 6\) instead of \(7, 4\)"),
        ({"embedding_network": {"num_blocks": 1}}, r"has encoder\.embedding_network\.encoders\.1"),
    ):
        with pytest.raises(CheckpointMismatchError, match=message):
            build(speechmoe_config(encoder_conf=changes)).load_state_dict(state)


@pytest.mark.parametrize("of", ["conformer", "moe_share_conformer"])
def test_distilled_from_a_dense_teacher_and_from_one_of_its_kind(tmp_path: Path, of: str) -> None:
    teacher = speechmoe_config() if of.startswith("moe") else encoder_config(of, model="espnet")
    files = save(tmp_path, teacher, build(teacher, seed=4))
    model = build(speechmoe_config(model_conf={"distill_weight": 1.0, **files}))
    _, stats = step(model)
    assert stats["loss_distill"] > 0
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    # one embedding per batch: looking at the subsampling of both ran no network
    assert stats["loss_embedding_ctc"] > 0


def test_expert_usage(tmp_path: Path) -> None:
    settings = speechmoe_config()
    files = save(tmp_path, settings, build(settings))
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 9000)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    arguments = ["--asr_train_config", files["teacher_config"]]
    arguments += ["--asr_model_file", files["teacher_model_file"]]
    arguments += ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "usage")]
    expert_usage(arguments)
    layers = json.loads((tmp_path / "usage/expert_usage.json").read_text())["layers"]
    # the routers of the encoder's layers; the embedding network has none
    assert [layer["name"] for layer in layers] == [f"encoders.{n}.feed_forward" for n in range(4)]
