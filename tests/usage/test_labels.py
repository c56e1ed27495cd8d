"""Load by label, by hand."""

import math

import pytest
import torch

from espnet_moe_share.experts.routing import Routing
from espnet_moe_share.usage.labels import ChoicesByLabel


def routing(*ids: list[int]) -> Routing:
    logits = torch.zeros(len(ids), 3)
    pool = torch.nn.Parameter(torch.zeros(1))
    return Routing(logits, logits.softmax(-1), torch.tensor(ids), pool)


def test_frames_and_utterances_by_hand() -> None:
    choices = ChoicesByLabel()
    choices.add({"l0": routing([0], [0], [1], [2])}, ["x", "y", "y", "x"])
    choices.add({"l0": routing([1], [1])}, "y")
    summary = choices.summary()
    assert summary["labels"] == [
        {"label": "y", "frames": 4, "load": {"l0": [0.25, 0.75, 0]}},
        {"label": "x", "frames": 2, "load": {"l0": [0.5, 0, 0.5]}},
    ]
    # of 6 frames: choices 2 3 1; given y 1 3 0, given x 1 0 1

    def h(*counts: int) -> float:
        return -sum(c / sum(counts) * math.log(c / sum(counts)) for c in counts if c)

    explained = (h(2, 3, 1) - 4 / 6 * h(1, 3) - 2 / 6 * h(1, 1)) / h(2, 3, 1)
    assert summary["explained"]["l0"] == pytest.approx(explained)


def test_both_choices_of_a_frame_count() -> None:
    choices = ChoicesByLabel()
    choices.add({"l0": routing([0, 1], [1, 0])}, "x")
    (label,) = choices.summary()["labels"]
    assert label == {"label": "x", "frames": 2, "load": {"l0": [0.5, 0.5, 0]}}


def test_a_label_explains_all_or_nothing() -> None:
    choices = ChoicesByLabel()
    choices.add({"all": routing([0], [1]), "none": routing([0], [1])}, ["x", "y"])
    choices.add({"all": routing([0], [1]), "none": routing([1], [0])}, ["x", "y"])
    assert choices.summary()["explained"] == pytest.approx({"all": 1, "none": 0}, abs=1e-12)
    one = ChoicesByLabel()
    one.add({"l0": routing([1], [1])}, ["x", "y"])
    assert one.summary()["explained"] == {"l0": 0}
