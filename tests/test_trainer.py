"""The picture of the load that TensorBoard shows of every epoch."""

from typing import Any

import pytest
import torch
from espnet2.tasks.asr import ASRTask
from espnet2.train.reporter import SubReporter
from espnet2.train.trainer import Trainer
from tiny_models import batch, build, config, dense_config

import espnet_moe_share
from espnet_moe_share import registry
from espnet_moe_share.trainer import LoadFigureTrainer


class Writer:
    """What ESPnet's trainer gets for TensorBoard."""

    def __init__(self) -> None:
        self.figures: list[tuple[str, Any, int]] = []

    def add_figure(self, tag: str, figure: Any, step: int) -> None:
        self.figures.append((tag, figure, step))


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """ESPnet's epoch is one forward pass in training and one, as of validation, in evaluation."""

    def train_one_epoch(model: Any, **kwargs: Any) -> bool:
        torch.manual_seed(0)  # dropout
        model.train()
        model(**batch())
        model.eval()
        model(**batch(seed=1))
        return False

    monkeypatch.setattr(Trainer, "train_one_epoch", staticmethod(train_one_epoch))


def run_epoch(model: Any, writer: Writer | None, epoch: int) -> bool:
    return LoadFigureTrainer.train_one_epoch(
        model=model, summary_writer=writer, reporter=SubReporter("train", epoch, 7)
    )


@pytest.mark.usefixtures("one_step")
def test_load_of_the_epochs_training_steps() -> None:
    model = build(config())
    writer = Writer()
    for epoch in (4, 5):
        assert run_epoch(model, writer, epoch) is False
    assert [(tag, step) for tag, _, step in writer.figures] == [
        ("expert_load", 4),
        ("expert_load", 5),
    ]
    axes = writer.figures[1][1].axes[0]
    assert "epoch 5" in axes.get_title()
    drawn = axes.images[0].get_array()
    assert drawn.shape == (4, 4)  # layers, experts
    assert drawn.sum(axis=1).tolist() == pytest.approx([1, 1, 1, 1])
    # The same step alone, without validation and without the epoch before.
    model.epoch_load.reset()
    torch.manual_seed(0)
    model.train()
    model(**batch())  # with gradient: another kernel would draw other numbers for dropout
    assert model.epoch_load.shares() == {
        f"encoders.{n}.feed_forward": pytest.approx(row) for n, row in enumerate(drawn.tolist())
    }
    assert not [key for key in model.state_dict() if "load" in key]


@pytest.mark.usefixtures("one_step")
def test_nothing_to_draw() -> None:
    run_epoch(build(config()), None, 1)
    writer = Writer()
    run_epoch(build(dense_config()), writer, 1)
    run_epoch(build(config(encoder_conf={"experts": None, "sharing": None})), writer, 1)
    assert writer.figures == []


def test_espnets_task_takes_it_but_keeps_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Trainer):
        pass

    for before, installed, after in (
        (Trainer, None, LoadFigureTrainer),
        (Other, None, Other),
        (Trainer, object(), Trainer),
    ):
        monkeypatch.setattr(ASRTask, "trainer", before)
        monkeypatch.setattr(registry, "find_spec", lambda name, found=installed: found)
        espnet_moe_share.register()
        assert ASRTask.trainer is after
