"""Sharing rules: groups, patterns and what is refused."""

from typing import Any

import pytest

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.sharing.rules import matches, parse_rule, parse_rules

PATHS = [
    "self_attn.linear_q.weight",
    "feed_forward.router.weight",
    "feed_forward.experts.w_1",
    "feed_forward_macaron.w_1.weight",
    "conv_module.norm.weight",
    "conv_module.norm.running_mean",
    "norm_ff.bias",
]


def rule(num_layers: int = 6, **keys: Any) -> Any:
    return parse_rule("sharing[0]", {"modules": ["*"], **keys}, num_layers)


@pytest.mark.parametrize(
    ("keys", "groups"),
    [
        ({"groups": 1}, ((0, 1, 2, 3, 4, 5),)),
        ({"groups": 2}, ((0, 1, 2), (3, 4, 5))),
        ({"groups": 2, "order": "contiguous"}, ((0, 1, 2), (3, 4, 5))),
        ({"groups": 2, "order": "cyclic"}, ((0, 2, 4), (1, 3, 5))),
        ({"groups": 3, "order": "cyclic"}, ((0, 3), (1, 4), (2, 5))),
        ({"groups": 6}, ((0,), (1,), (2,), (3,), (4,), (5,))),
        ({"groups": [[5, 0], [1, 2]]}, ((0, 5), (1, 2))),
    ],
)
def test_groups(keys: dict[str, Any], groups: tuple[tuple[int, ...], ...]) -> None:
    assert rule(**keys).groups == groups


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("*", "norm_ff.bias", True),
        ("feed_forward", "feed_forward.experts.w_1", True),
        ("feed_forward", "feed_forward_macaron.w_1.weight", False),
        ("feed_forward*", "feed_forward_macaron.w_1.weight", True),
        ("*.router", "feed_forward.router.weight", True),
        ("*norm*", "conv_module.norm.running_mean", True),
        ("norm*", "conv_module.norm.weight", False),
        ("self_attn.linear_q.weight", "self_attn.linear_q.weight", True),
        ("self_attn.linear", "self_attn.linear_q.weight", False),
        ("self_attn.linear_[qk].weight", "self_attn.linear_q.weight", True),
        ("Self_Attn", "self_attn.linear_q.weight", False),
    ],
)
def test_patterns(pattern: str, path: str, wanted: bool) -> None:
    assert matches(pattern, path) is wanted


def test_select_leaves_out_the_exceptions() -> None:
    chosen = rule(**{"except": ["*norm*", "*.router"], "groups": 2}).select(PATHS)
    assert chosen == [PATHS[0], PATHS[2], PATHS[3]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("*", r"sharing\[0\] must be a mapping with modules, except, groups, order, not '\*'"),
        ({"modules": ["*"], "groups": 2, "modul": []}, "unknown key 'modul'"),
        ({"groups": 2}, "'modules' is missing"),
        ({"modules": ["*"]}, "'groups' is missing"),
        ({"modules": "*", "groups": 2}, "'modules' must be a list of patterns"),
        ({"modules": [3], "groups": 2}, "'modules' must be a list of patterns"),
        ({"modules": ["*"], "except": "norm", "groups": 2}, "'except' must be a list"),
        ({"modules": ["*"], "groups": 4}, "4 equal groups cannot be made of 6 layers"),
        ({"modules": ["*"], "groups": 12}, "12 equal groups cannot be made of 6 layers"),
        ({"modules": ["*"], "groups": 0}, "0 equal groups cannot be made of 6 layers"),
        ({"modules": ["*"], "groups": -1}, "-1 equal groups cannot be made of 6 layers"),
        ({"modules": ["*"], "groups": True}, "not True"),
        ({"modules": ["*"], "groups": "2"}, "not '2'"),
        ({"modules": ["*"], "groups": None}, "not None"),
        ({"modules": ["*"], "groups": 2, "order": "round"}, "'order' must be contiguous or cyclic"),
        ({"modules": ["*"], "groups": [[0, 1]], "order": "cyclic"}, "lists of layers"),
        ({"modules": ["*"], "groups": [0, 1]}, "lists of layers such as"),
        ({"modules": ["*"], "groups": [[0, 1], []]}, "lists of layers such as"),
        ({"modules": ["*"], "groups": [[0, 6]]}, "there is no layer 6; layers are 0 to 5"),
        ({"modules": ["*"], "groups": [[-1, 0]]}, "there is no layer -1"),
        ({"modules": ["*"], "groups": [["0", 1]]}, "there is no layer '0'"),
        ({"modules": ["*"], "groups": [[0, 1], [1, 2]]}, "layer 1 is listed twice"),
        ({"modules": ["*"], "groups": [[0, 0]]}, "layer 0 is listed twice"),
    ],
)
def test_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        parse_rule("sharing[0]", value, 6)
    assert "\n" not in str(refused.value)


def test_messages_count_the_rules() -> None:
    with pytest.raises(ConfigurationError, match=r"sharing\[1\]: 'groups' is missing"):
        parse_rules([{"modules": ["*"], "groups": 2}, {"modules": ["*"]}], 6)


@pytest.mark.parametrize("key", ["modules", "except"])
def test_pattern_that_matches_nothing(key: str) -> None:
    patterns = {"modules": ["self_attn"], "except": ["norm_ff"], key: ["self_atn"]}
    with pytest.raises(ConfigurationError, match=f"'self_atn' in '{key}' matches no") as refused:
        rule(groups=2, **patterns).select(PATHS)
    assert "conv_module, feed_forward, feed_forward_macaron, norm_ff, self_attn" in str(
        refused.value
    )
