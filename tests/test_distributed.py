"""Two processes with gloo: experts that get no frame, and a teacher beside the student."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import batch, build, config, merge

pytestmark = pytest.mark.slow

STEPS = 3
# 7 frames at most in one process: with 16 experts most stay idle there
LENGTHS = (8000, 6000)


def settings_for(teacher: dict[str, str]) -> dict[str, Any]:
    """A student that draws no random numbers in training."""
    dropouts = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    return merge(
        config(
            encoder_conf={**dropouts, "experts": {"num_experts": 16, "bias_update_rate": 0.0625}},
            decoder_conf={**dropouts},
            model_conf={"balance_weight": 0.1, "distill_weight": 0.5, **teacher},
        ),
        {},
    )


def batch_of(rank: int, number: int) -> dict[str, Any]:
    return batch(seed=10 * rank + number, lengths=LENGTHS)


def train(rank: int, folder: str) -> None:
    """One of two processes; saves what it ends with."""
    torch.set_num_threads(1)
    settings = yaml.safe_load((Path(folder) / "config.yaml").read_text())
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", world_size=2, rank=rank
    )
    # other initial weights in each process: those of the first must win
    model = build(settings, seed=rank)
    for bias in model.balancing.biases.values():
        bias.bias += rank  # of all experts: no choice changes
    parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parallel.train()
    result: dict[str, Any] = {"idle": 0.0, "before": model.state_dict()}
    result["before"] = {name: value.clone() for name, value in result["before"].items()}
    for number in range(STEPS):
        optimizer.zero_grad()
        loss, stats, _ = parallel(**batch_of(rank, number))
        loss.backward()
        if number == 0:
            result["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters()}
        result["idle"] += stats["layer0_feed_forward_dead_experts"].item()
        optimizer.step()
    model.eval()  # the last step's choices move the biases
    result["distill"] = stats["loss_distill"].item()
    result["after"] = model.state_dict()
    result["teacher"] = model.teacher.model.state_dict()
    torch.save(result, Path(folder) / f"rank{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path, teacher: dict[str, str]) -> None:
    settings = settings_for(teacher)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.multiprocessing.spawn(train, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))

    assert first["idle"] > 0
    assert second["idle"] > 0
    parameters = {name for name, _ in build(settings).named_parameters()}
    for name in first["gradients"]:
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
    for key, value in first["after"].items():
        if key.endswith("expert_bias.bias"):  # not broadcast, yet moved by the same choices
            assert torch.equal(value, second["after"][key] - 1)
            assert value.abs().sum() > 0
        elif "conv_module.norm.r" not in key:  # running statistics are each process's own
            assert torch.equal(value, second["after"][key]), key
    assert first["distill"] > 0
    files = torch.load(teacher["teacher_model_file"])
    for result in (first, second):
        values = result["teacher"].items()
        changed = [k for k, value in values if not torch.equal(value, files[k].to(value.dtype))]
        assert changed == []

    # one process, both batches, the mean of the gradients
    model = build(settings, seed=0).train()
    for rank in range(2):
        (model(**batch_of(rank, 0))[0] / 2).backward()
    assert set(first["gradients"]) == parameters
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(first["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6)
