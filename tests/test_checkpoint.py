"""The strict comparison of keys."""

import pytest

from espnet_moe_share.checkpoint import check_keys
from espnet_moe_share.errors import CheckpointMismatchError


def test_equal_keys_in_any_order() -> None:
    check_keys(["a", "b"], {"b": 1, "a": 2}, "x.pth")
    check_keys([], [], "x.pth")


@pytest.mark.parametrize(
    ("expected", "found", "part"),
    [
        (["a", "b"], ["a"], "x.pth: .*: the model needs b; use the config.yaml"),
        (["a"], ["a", "b"], "x.pth: .*: the checkpoint has b; use the config.yaml"),
        (["a", "c"], ["a", "b"], "the model needs c; the checkpoint has b;"),
        (list("fedcba"), [], "the model needs a, b and 4 more;"),
        (list("ba"), [], "the model needs a, b;"),
    ],
)
def test_names_what_differs_in_one_line(expected: list[str], found: list[str], part: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=part) as refused:
        check_keys(expected, found, "x.pth")
    assert "\n" not in str(refused.value)
