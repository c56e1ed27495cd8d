"""Usage of experts by hand, and apart from batches."""

import math

import pytest
import torch

from espnet_moe_share.experts.routing import Routing
from espnet_moe_share.usage.tally import ExpertUsage, mutual_information


def routing(ids: list[int], logits: torch.Tensor | None = None) -> Routing:
    parameter = torch.nn.Parameter(torch.zeros(1))
    logits = torch.zeros(len(ids), 4) if logits is None else logits
    return Routing(logits, logits.softmax(-1), torch.tensor(ids).unsqueeze(-1), parameter)


def test_summary_by_hand() -> None:
    sure = torch.tensor([[50.0, 0, 0, 0], [0, 50.0, 0, 0], [50.0, 0, 0, 0], [50.0, 0, 0, 0]])
    usage = ExpertUsage()
    usage.add(
        {
            "encoders.0.feed_forward": [routing([0, 1, 0, 0], sure)],
            "encoders.1.feed_forward": [routing([0, 1, 2, 2])],
        }
    )
    first, second = usage.summary()["layers"]
    assert first["load"] == [0.75, 0.25, 0, 0]
    assert first["load_entropy"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert first["routing_entropy"] == pytest.approx(0, abs=1e-6)
    assert first["mean_probability"] == pytest.approx([0.75, 0.25, 0, 0])
    assert second["routing_entropy"] == pytest.approx(math.log(4))
    assert second["frames"] == 4
    (pair,) = usage.summary()["neighbours"]
    assert pair["names"] == ["encoders.0.feed_forward", "encoders.1.feed_forward"]
    assert pair["agreement"] == 0.5
    # joint counts (0,0) 1, (1,1) 1, (0,2) 2 of 4: I = H(first), as the second decides the first
    h_first, h_second = first["load_entropy"], second["load_entropy"]
    assert pair["mutual_information"] == pytest.approx(2 * h_first / (h_first + h_second))


def test_utterances_add_up_to_their_concatenation() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 30, 4)
    ids = logits.argmax(dim=-1)
    names = ["encoders.0.feed_forward", "encoders.1.feed_forward"]
    whole, parts = ExpertUsage(), ExpertUsage()
    whole.add({n: [routing(ids[i].tolist(), logits[i])] for i, n in enumerate(names)})
    for cut in (slice(0, 7), slice(7, 30)):
        parts.add({n: [routing(ids[i][cut].tolist(), logits[i][cut])] for i, n in enumerate(names)})
    a, b = whole.summary(), parts.summary()
    for x, y in zip(a["layers"], b["layers"], strict=True):
        assert x["load"] == y["load"]
        assert x["routing_entropy"] == pytest.approx(y["routing_entropy"])
    assert a["neighbours"] == b["neighbours"]


def test_mutual_information_does_not_depend_on_numbers() -> None:
    joint = torch.tensor([[5.0, 1, 0], [0, 7, 2], [3, 0, 4]]).double()
    permuted = joint[[2, 0, 1]][:, [1, 2, 0]]
    assert mutual_information(permuted) == pytest.approx(mutual_information(joint))
    assert mutual_information(torch.eye(3).double()[[1, 2, 0]]) == pytest.approx(1)
    assert mutual_information(torch.ones(3, 4).double()) == pytest.approx(0, abs=1e-12)
    one = torch.zeros(3, 3).double()
    one[1, 2] = 9
    assert mutual_information(one) == 0


def test_neighbours_are_of_the_same_module() -> None:
    usage = ExpertUsage()
    usage.add(
        {
            f"encoders.{layer}.{module}": [routing([0, 1])]
            for layer in range(2)
            for module in ("feed_forward", "feed_forward_macaron")
        }
    )
    assert [pair["names"] for pair in usage.summary()["neighbours"]] == [
        ["encoders.0.feed_forward", "encoders.1.feed_forward"],
        ["encoders.0.feed_forward_macaron", "encoders.1.feed_forward_macaron"],
    ]
