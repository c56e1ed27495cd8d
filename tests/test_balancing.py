"""The model moe_share with loss-free balancing, capacity, jitter and expert dropout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer
from tiny_models import batch, build, config, merge, save

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.inference import Speech2Text

RATE = 0.125
OPTIONS = {"dropout_rate": 0.2, "capacity_factor": 1.0, "jitter": 0.1, "bias_update_rate": RATE}
PATHS = [f"encoder.encoders.{number}.feed_forward.expert_bias.bias" for number in range(4)]


def settings(**changes: Any) -> dict[str, Any]:
    base = config(
        encoder_conf={"experts": OPTIONS},
        model_conf={"balance_weight": 0.1, "router_z_weight": 0.01},
    )
    return merge(base, changes)


def biases(model: Any) -> list[torch.Tensor]:
    buffers = dict(model.named_buffers())
    return [buffers[path].clone() for path in PATHS]


def is_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other))


def steps(model: Any, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    """Training steps, each from a random state and on a batch of its own."""
    model.train()
    for number in numbers:
        torch.manual_seed(number)
        optimizer.zero_grad()
        model(**batch(seed=number))[0].backward()
        optimizer.step()


def test_bias_stays_during_an_accumulated_step_and_moves_by_all_its_choices() -> None:
    model = build(settings())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, range(1))
    optimizer.zero_grad()
    counts = torch.zeros(4, 4, dtype=torch.long)
    recorded: list[Any] = []
    for layer in model.encoder.encoders:
        layer.feed_forward.router.register_forward_hook(
            lambda module, args, output: recorded.append((output[2], args[1].clone()))
        )
    for number in (1, 2):
        model(**batch(seed=number, lengths=(12000, 9000, 7000)[:: 2 * number - 3]))[0].backward()
    start = [bias for _, bias in recorded[:4]]
    assert is_equal(start, [bias for _, bias in recorded[4:]])
    assert any(bias.abs().sum() > 0 for bias in start)  # the first step's update
    for call, (ids, _) in enumerate(recorded):
        counts[call % 4] += ids.flatten().bincount(minlength=4)
    optimizer.step()
    assert is_equal(biases(model), start)
    model.eval()  # as ESPnet's trainer does before it writes a checkpoint
    signs = (counts.double().mean(dim=1, keepdim=True) - counts).sign()
    expected = torch.stack(start) + RATE * (signs - signs.mean(dim=1, keepdim=True))
    torch.testing.assert_close(torch.stack(biases(model)), expected.float())
    # the frames of validation are not counted
    before = biases(model)
    with torch.no_grad():
        model(**batch())
    model.train()
    optimizer.step()
    model(**batch())
    assert is_equal(biases(model), before)


def test_step_that_was_skipped_moves_nothing() -> None:
    """ESPnet's trainer takes no step when the gradient is not finite."""
    model = build(settings()).train()
    for _ in range(2):
        model(**batch())[0].backward()
    model.eval()
    assert all(bias.abs().sum() == 0 for bias in biases(model))


def test_train_save_resume_and_decode(tmp_path: Path) -> None:
    uninterrupted = build(settings())
    optimizer = torch.optim.Adam(uninterrupted.parameters(), lr=0.01)
    steps(uninterrupted, optimizer, range(2))
    uninterrupted.eval()
    files = save(tmp_path, settings(), uninterrupted)
    state = {
        "model": uninterrupted.state_dict(),
        "reporter": Reporter().state_dict(),
        "optimizers": [optimizer.state_dict()],
        "schedulers": [None],
        "scaler": None,
    }
    torch.save(state, tmp_path / "checkpoint.pth")
    saved = torch.load(tmp_path / "checkpoint.pth")["model"]
    resumed = build(settings(), seed=9)
    again = torch.optim.Adam(resumed.parameters(), lr=0.01)
    Trainer.resume(tmp_path / "checkpoint.pth", resumed, Reporter(), [again], [None], None)
    assert is_equal(biases(resumed), biases(uninterrupted))
    assert any(bias.abs().sum() > 0 for bias in biases(resumed))
    steps(uninterrupted, optimizer, range(2, 4))
    steps(resumed, again, range(2, 4))
    other = resumed.eval().state_dict()
    for key, value in uninterrupted.eval().state_dict().items():
        assert torch.equal(other[key], value), key

    search = Speech2Text(*files.values(), beam_size=2, maxlenratio=0.2)
    assert is_equal(biases(search.asr_model), [saved[path] for path in PATHS])
    assert search(np.random.default_rng(0).normal(size=9000).astype(np.float32))
    plain = settings(encoder_conf={"experts": {"bias_update_rate": 0.0}})
    with pytest.raises(CheckpointMismatchError, match="expert_bias"):
        build(plain).load_state_dict(saved)


def test_logged_dropped_share() -> None:
    model = build(settings(encoder_conf={"stochastic_depth_rate": [0.0, 0.999, 0.0, 0.0]}))
    model.train()
    torch.manual_seed(0)
    stats = model(**batch())[1]
    names = [f"layer{number}_feed_forward_dropped_share" for number in range(4)]
    assert 0 < stats[names[0]] < 1
    assert stats[names[1]].isnan()
    assert stats[names[0]].shape == (1,)
    stats = model.eval()(**batch())[1]
    assert [stats[name].item() for name in names] == [0.0] * 4
    assert not any("dropped" in name for name in build(config()).train()(**batch())[1])


def test_biases_are_kept_out_of_ddps_broadcast() -> None:
    assert build(settings())._ddp_params_and_buffers_to_ignore == PATHS
    assert not hasattr(build(config()), "_ddp_params_and_buffers_to_ignore")


def test_bias_and_pool_balance_exclude_one_another() -> None:
    with pytest.raises(ConfigurationError, match=r"balance_scope: pool .* bias_update_rate"):
        build(settings(model_conf={"balance_scope": "pool"}))
    build(settings(model_conf={"balance_scope": "pool", "balance_weight": 0.0}))


def test_bias_with_espnets_model_is_refused_when_training_begins() -> None:
    model = build(config(model="espnet", encoder_conf={"experts": {"bias_update_rate": RATE}}))
    with pytest.raises(ConfigurationError, match="needs 'model: moe_share'"):
        model.train()(**batch())
