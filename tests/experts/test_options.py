"""Optional keys of experts: read, checked, refused with the reason."""

from typing import Any

import pytest

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.options import ExpertOptions, parse_options


def test_all_are_off_by_default() -> None:
    assert parse_options({"num_experts": 4}, 4, 1) == ExpertOptions(
        dropout_rate=None, capacity_factor=None, jitter=0.0, bias_update_rate=0.0
    )


def test_values_are_taken_as_given() -> None:
    given = {"dropout_rate": 0.4, "capacity_factor": 1, "jitter": 0.01, "bias_update_rate": 0.001}
    assert parse_options({"num_experts": 4, **given}, 4, 2) == ExpertOptions(**given)
    assert parse_options({"dropout_rate": None, "capacity_factor": None}, 4, 2) == ExpertOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_rate": 1.0}, "'dropout_rate' must be a number of 0 or more and below 1, not 1"),
        ({"dropout_rate": "0.4"}, "'dropout_rate' must be a number .* not '0.4'"),
        ({"jitter": -0.1}, "'jitter' must be a number of 0 or more and below 1, not -0.1"),
        ({"jitter": 1}, "'jitter' must be a number of 0 or more and below 1, not 1"),
        ({"jitter": None}, "'jitter' must be a number of 0 or more and below 1, not None"),
        ({"jitter": True}, "'jitter' must be a number of 0 or more and below 1, not True"),
        ({"bias_update_rate": "1e-3"}, r"not '1e-3' \(YAML reads 1e-3 as text; write 1.0e-3\)"),
        ({"bias_update_rate": float("nan")}, "'bias_update_rate' must be .* not nan"),
        ({"capacity_factor": 0}, "'capacity_factor' must be a number above 0, or null .* not 0"),
        ({"capacity_factor": -1.0}, "'capacity_factor' must be a number above 0"),
        ({"capacity_factor": float("inf")}, "or null for no limit, not inf"),
    ],
)
def test_refused_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        parse_options(options, 4, 1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("num_experts", [1, 3])
def test_bias_where_there_is_no_choice_is_refused(num_experts: int) -> None:
    with pytest.raises(ConfigurationError, match="every frame has all of them"):
        parse_options({"bias_update_rate": 0.001}, num_experts, num_experts)
