"""The teacher beside the student: what it sees, and that it is not a part of it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from tiny_models import SPECAUG, TOKENS, batch, build, config, dense_config, merge, save

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError


@pytest.fixture
def student(student_settings: dict[str, Any]) -> Any:
    return build(student_settings).train()


def run(model: Any, seed: int = 5) -> dict[str, Any]:
    torch.manual_seed(seed)
    return model(**batch())[1]


def test_distance_equals_a_direct_computation(student: Any, teacher: dict[str, str]) -> None:
    seen: dict[str, Any] = {}

    def keep_features(module: Any, args: Any, output: Any) -> None:
        seen["features"], seen["lengths"] = output[0].clone(), output[1].clone()

    def keep_encoded(module: Any, args: Any, output: Any) -> None:
        seen["student"], seen["student_lengths"] = output[0].detach().clone(), output[1]

    student.specaug.register_forward_hook(keep_features)
    student.encoder.register_forward_hook(keep_encoded)
    stats = run(student)

    model, _ = ESPnetASRTask.build_model_from_file(
        teacher["teacher_config"], teacher["teacher_model_file"]
    )
    model.eval()
    with torch.no_grad():
        features, lengths = model.normalize(seen["features"], seen["lengths"])
        expected, expected_lengths, _ = model.encoder(features, lengths)
    assert torch.equal(expected_lengths, seen["student_lengths"])
    assert len(set(expected_lengths.tolist())) == 3  # there is padding to get wrong
    squares, frames = 0.0, 0
    for row, length in enumerate(expected_lengths.tolist()):
        difference = seen["student"][row, :length] - expected[row, :length]
        squares += difference.square().sum().item()
        frames += length
    assert stats["loss_distill"].item() == pytest.approx(squares / frames / 8, rel=1e-5)
    assert torch.equal(stats["loss_distill_weighted"], 0.1 * stats["loss_distill"])


def test_teacher_does_not_disturb_the_student(
    student: Any, student_settings: dict[str, Any]
) -> None:
    alone = build(merge(student_settings, {"model_conf": {"distill_weight": 0.0}})).train()
    assert alone.teacher is None
    first, second = run(student), run(alone)
    for name in ("loss_ctc", "loss_att", "acc", "loss_balance", "loss_router_z"):
        assert torch.equal(first[name], second[name]), name
    for (name, ours), theirs in zip(student.named_buffers(), alone.buffers()):
        assert torch.equal(ours, theirs), name


def test_teacher_is_no_part_of_the_student(student: Any, student_settings: dict[str, Any]) -> None:
    alone = build(merge(student_settings, {"model_conf": {"distill_weight": 0.0}}))
    teacher = student.teacher.model
    assert teacher is not None
    assert list(student.state_dict()) == list(alone.state_dict())
    assert [n for n, _ in student.named_parameters()] == [n for n, _ in alone.named_parameters()]
    assert len(list(student.modules())) == len(list(alone.modules()))
    assert str(student) == str(alone)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for _ in range(2):
        torch.manual_seed(0)
        student(**batch())[0].backward()
        student.train()
    # the encoder only: ESPnet's decoders share a default ReLU with each other
    assert not any(module.training for module in teacher.encoder.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[n]) for n, v in teacher.state_dict().items())


def test_teacher_draws_no_random_numbers(student_settings: dict[str, Any]) -> None:
    model = build(student_settings)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    model.train()
    assert model.teacher.model is not None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_teacher_is_loaded_once_and_late(student_settings: dict[str, Any]) -> None:
    model = build(student_settings)
    model.eval()
    assert model.teacher.model is None
    assert "loss_distill" not in run(model)
    loaded = model.train().teacher.model
    assert loaded is not None
    model.eval()
    assert model.train().teacher.model is loaded


def test_a_new_model_that_nobody_calls_train_of_is_distilled(
    student_settings: dict[str, Any],
) -> None:
    """Lightning, and so ESPnet3, leaves a model in the mode in which it was built."""
    model = build(student_settings)
    assert model.training
    assert run(model)["loss_distill"] > 0


def test_teacher_follows_the_student(student: Any) -> None:
    student.to(torch.float64)
    teacher = student.teacher.model
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}
    assert teacher.normalize.mean.dtype == torch.float64
    student.to("meta")
    assert {p.device.type for p in teacher.parameters()} == {"meta"}


@pytest.mark.parametrize("interctc", [False, True])
def test_teacher_with_intermediate_ctc(tmp_path: Path, interctc: bool) -> None:
    settings = dense_config()
    settings["encoder_conf"].update(interctc_layer_idx=[2], interctc_use_conditioning=interctc)
    files = save(tmp_path, settings, build(settings, seed=4))
    model = build(config(model_conf={"distill_weight": 1.0, **files})).train()
    assert run(model)["loss_distill"] > 0


def test_moe_share_student_as_teacher(tmp_path: Path, student_settings: dict[str, Any]) -> None:
    """Its own teacher is named in its config.yaml and gone by now."""
    settings = merge(student_settings, {"model_conf": {"teacher_config": "gone.yaml"}})
    files = save(tmp_path, settings, build(settings, seed=4))
    model = build(config(model_conf={"distill_weight": 1.0, **files})).train()
    assert model.teacher.model.teacher.model is None
    assert run(model)["loss_distill"] > 0


def test_same_model_has_distance_0(tmp_path: Path) -> None:
    settings = config(specaug=None)
    model = build(settings)
    files = save(tmp_path, settings, model)
    student = build(config(model_conf={"distill_weight": 1.0, **files}), seed=9)
    student.load_state_dict(model.state_dict())
    student.train().eval()
    # experts are multiplied in other pieces, and convolutions computed in another order
    assert run(student)["loss_distill"] < 1e-12


def test_projection_when_widths_differ(tmp_path: Path) -> None:
    settings = dense_config(encoder_conf={"output_size": 12})
    files = save(tmp_path, settings, build(settings))
    model_conf = {"distill_weight": 1.0, **files}
    with pytest.raises(ConfigurationError, match=r"of width 12, not 8; set.*output_size: 12"):
        build(config(model_conf=model_conf)).train()
    with pytest.raises(ConfigurationError, match="of width 12, not 16"):
        build(config(model_conf={**model_conf, "teacher_output_size": 16})).train()
    student = build(config(model_conf={**model_conf, "teacher_output_size": 12})).train()
    assert student.distill_projection.weight.shape == (12, 8)
    encoded: list[torch.Tensor] = []
    student.encoder.register_forward_hook(lambda m, a, output: encoded.append(output[0]))
    outputs: list[torch.Tensor] = []
    student.teacher.model.encoder.register_forward_hook(
        lambda m, a, output: outputs.append(output[0])
    )
    torch.manual_seed(0)
    loss, stats, _ = student(**batch(lengths=(9000, 9000)))  # no padding
    expected = (student.distill_projection(encoded[0]) - outputs[0]).square().mean()
    torch.testing.assert_close(stats["loss_distill"], expected.detach().view(1))
    loss.backward()
    assert student.distill_projection.weight.grad.abs().sum() > 0


def test_same_width_needs_no_projection(student: Any) -> None:
    assert student.distill_projection is None


OTHER_FRONTEND = {"frontend_conf": {"n_fft": 512}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_list": [*TOKENS[:3], "z", *TOKENS[4:]]}, "token list .*'z' instead of 'b'"),
        ({"token_list": [*TOKENS, "<x>"]}, "token list .*8 tokens instead of 7"),
        (OTHER_FRONTEND, "another frontend than the student"),
        ({"frontend_conf": {"hop_length": 160}}, "another frontend than the student"),
        ({"frontend_conf": {"fmin": 100}}, "another frontend than the student"),
        ({"encoder_conf": {"input_layer": "conv2d"}}, "subsamples differently: 203 frames become"),
        ({"encoder_conf": {"input_layer": "conv2d8"}}, "give both the same 'input_layer'"),
    ],
)
def test_teacher_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    # conv2d8 needs more mel bands than the others
    mels = {"frontend_conf": {"n_mels": 40}}
    settings = merge(dense_config(**mels), changes)
    files = save(tmp_path, settings, build(settings))
    student = build(config(**mels, model_conf={"distill_weight": 1.0, **files}))
    with pytest.raises(ConfigurationError, match=message) as refused:
        student.train()
    assert files["teacher_config"] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert student.teacher.model is None


@pytest.mark.parametrize("key", ["teacher_config", "teacher_model_file"])
def test_missing_file(teacher: dict[str, str], key: str) -> None:
    model_conf = {"distill_weight": 1.0, **teacher, key: "nowhere/teacher"}
    student = build(config(model_conf=model_conf))
    with pytest.raises(ConfigurationError, match="nowhere/teacher: no such file"):
        student.train()


def test_weight_without_a_teacher() -> None:
    student = build(config(model_conf={"distill_weight": 0.1}))
    student.eval()
    with pytest.raises(ConfigurationError, match=r"is 0\.1, but there is no teacher"):
        student.train()


@pytest.mark.parametrize(
    "change", [{"encoder_conf": {"num_blocks": 2}}, {"encoder_conf": {"macaron_style": False}}]
)
def test_checkpoint_of_another_architecture(
    tmp_path: Path, teacher: dict[str, str], change: dict[str, Any]
) -> None:
    settings = yaml.safe_load(Path(teacher["teacher_config"]).read_text())
    other = save(tmp_path, merge(settings, change), build(merge(settings, change)))
    model_conf = {
        "distill_weight": 0.1,
        "teacher_config": teacher["teacher_config"],
        "teacher_model_file": other["teacher_model_file"],
    }
    student = build(config(model_conf=model_conf))
    with pytest.raises(CheckpointMismatchError, match=r"model needs encoder\.encoders") as refused:
        student.train()
    assert other["teacher_model_file"] in str(refused.value)


def test_teacher_sees_masked_and_warped_features(student_settings: dict[str, Any]) -> None:
    """Without SpecAugment on the student's side the teacher gets other input."""
    inputs: list[torch.Tensor] = []
    for settings in (student_settings, merge(student_settings, {"specaug": None})):
        student = build(settings).train()
        student.teacher.model.normalize.register_forward_pre_hook(
            lambda m, args: inputs.append(args[0].clone())
        )
        run(student)
    with_mask, plain = inputs
    assert with_mask.shape == plain.shape
    assert not torch.equal(with_mask, plain)
    # before the student's normalisation, which would leave a mean of 0 in every band
    assert plain[0].mean(0).abs().max() > 0.1
    assert SPECAUG["specaug"] == student_settings["specaug"]


def test_encode_gives_lengths_and_no_gradient(student: Any) -> None:
    features, lengths = torch.randn(2, 60, 20), torch.tensor([60, 40])
    encoded, encoded_lengths = student.teacher.encode(features, lengths)
    assert not encoded.requires_grad
    assert encoded.size(1) == encoded_lengths.max()
    assert encoded_lengths[0] > encoded_lengths[1]


def test_other_number_of_frames_is_noticed_in_training_too(
    student: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first check cannot see the subsampling, in a pre-encoder for instance."""
    encode = student.teacher.encode

    def one_frame_less(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        encoded, lengths = encode(*args)
        return encoded[:, :-1], lengths - 1

    monkeypatch.setattr(student.teacher, "encode", one_frame_less)
    with pytest.raises(ConfigurationError, match=r"where the student gives .*same subsampling"):
        run(student)
