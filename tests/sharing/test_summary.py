"""What is told of the sharing of a stack of layers."""

from typing import Any

import torch
from tiny_models import EXPERTS, SHARING, encoder

from espnet_moe_share.sharing.summary import SharedParts, summarize_sharing


def summary(**changes: Any) -> list[SharedParts]:
    return summarize_sharing(list(encoder(**changes).encoders))


def test_main_system() -> None:
    layers = encoder(experts=EXPERTS, sharing=SHARING).encoders
    individual, shared = sorted(summarize_sharing(list(layers)), key=lambda parts: parts.params)
    assert shared.groups == ((0, 1), (2, 3))
    assert set(shared.modules) == {
        "self_attn",
        "feed_forward.experts",
        "feed_forward_macaron",
        "conv_module.pointwise_conv1",
        "conv_module.depthwise_conv",
        "conv_module.pointwise_conv2",
    }
    assert individual.groups == ((0,), (1,), (2,), (3,))
    assert set(individual.modules) == {
        "feed_forward.router",
        "conv_module.norm",
        "norm_ff",
        "norm_mha",
        "norm_ff_macaron",
        "norm_conv",
        "norm_final",
    }
    stored = sum(parameter.numel() for parameter in layers.parameters())
    assert individual.params + shared.params == stored


def test_layers_that_share_nothing_are_one_line_of_their_parts() -> None:
    (only,) = summary()
    assert only.groups == ((0,), (1,), (2,), (3,))
    assert {"self_attn", "feed_forward", "conv_module", "norm_final"} <= set(only.modules)
    assert not any("." in module for module in only.modules)


def test_running_statistics_count_as_parts() -> None:
    rule = {"modules": ["conv_module"], "except": ["*running_*"], "groups": [[0, 3]]}
    found = {parts.groups: parts.modules for parts in summary(sharing=[rule])}
    shared = found[((0, 3), (1,), (2,))]
    assert "conv_module.norm.weight" in shared and "conv_module.norm" not in shared
    alone = found[((0,), (1,), (2,), (3,))]
    assert {"conv_module.norm.running_mean", "conv_module.norm.running_var"} <= set(alone)


def test_two_rules_with_other_groups() -> None:
    rules: list[dict[str, Any]] = [
        {"modules": ["self_attn"], "groups": 1},
        {"modules": ["feed_forward.w_1"], "groups": 2, "order": "cyclic"},
    ]
    found = {parts.groups: parts.modules for parts in summary(sharing=rules)}
    assert found[((0, 1, 2, 3),)] == ("self_attn",)
    assert found[((0, 2), (1, 3))] == ("feed_forward.w_1",)


def test_same_module_in_two_layers() -> None:
    """However the layers came to share: here the module itself is one."""
    one = torch.nn.Linear(2, 2)
    layers = [torch.nn.ModuleDict({"a": one, "ab": torch.nn.Linear(2, 3)}) for _ in range(2)]
    found = {parts.groups: (parts.modules, parts.params) for parts in summarize_sharing(layers)}
    assert found == {((0, 1),): (("a",), 6), ((0,), (1,)): (("ab",), 18)}


def test_no_layers() -> None:
    assert summarize_sharing([]) == []
