"""Recording of routings."""

import pytest
import torch

from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing, routing_by_layer


def stack() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *[MixtureOfExperts(4, 6, torch.nn.Dropout(0.0), torch.nn.ReLU(), 3, 1) for _ in range(2)]
    )


def test_records_every_call_by_path_with_the_parameter_of_its_pool() -> None:
    module = stack()
    with record_routing(module) as records:
        module(torch.randn(2, 5, 4))
        module[1](torch.randn(1, 3, 4))
    assert {path: len(calls) for path, calls in records.items()} == {"0": 1, "1": 2}
    assert records["0"][0].logits_NE.shape == (10, 3)
    assert records["0"][0].logits_NE.requires_grad
    assert records["1"][1].expert_ids_NK.shape == (3, 1)
    assert records["1"][0].experts is module[1].experts.w_1


def test_records_nothing_afterwards_also_after_an_error() -> None:
    module = stack()
    with pytest.raises(RuntimeError, match="stop"), record_routing(module) as records:
        raise RuntimeError("stop")
    module(torch.randn(2, 5, 4))
    assert records == {"0": [], "1": []}


def test_every_layer_has_one_routing_of_all_its_calls() -> None:
    module = stack()
    with record_routing(module) as records:
        module[1](torch.randn(2, 5, 4))
        module[1](torch.randn(1, 3, 4))
    routings = routing_by_layer(module, records)
    assert list(routings) == ["0", "1"]
    assert routings["0"].logits_NE.shape == (0, 3)
    assert routings["0"].expert_ids_NK.shape == (0, 1)
    assert routings["0"].experts is module[0].experts.w_1
    first, second = records["1"]
    assert torch.equal(routings["1"].logits_NE, torch.cat([first.logits_NE, second.logits_NE]))
    assert torch.equal(routings["1"].expert_ids_NK[10:], second.expert_ids_NK)
    assert routings["1"].logits_NE.requires_grad
