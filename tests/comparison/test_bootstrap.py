"""The paired bootstrap by hand."""

import math

import pytest

from espnet_moe_share.comparison.bootstrap import bootstrap_difference
from espnet_moe_share.comparison.sclite import Errors
from espnet_moe_share.errors import ConfigurationError


def substituted(*counts: tuple[int, int]) -> dict[str, Errors]:
    """Utterances of (tokens, substitutions)."""
    return {f"u{n}": Errors(t - s, s, 0, 0) for n, (t, s) in enumerate(counts)}


def test_a_system_does_not_differ_from_itself() -> None:
    errors = substituted((5, 1), (7, 0), (2, 2))
    same = bootstrap_difference(errors, errors, "test")
    assert (same.observed, same.low, same.high, same.improvement) == (0, 0, 0, 0)
    assert same.reading == "may be chance"


def test_two_utterances_by_hand() -> None:
    """Resamples: both the first (1/4), one of each (1/2), both the second (1/4).

    The second system has 2 errors less in the first utterance, of 10 tokens, and 1 more in the
    second, of 30: differences -4/20, -1/40, +2/60.
    """
    first, second = substituted((10, 4), (30, 0)), substituted((10, 2), (30, 1))
    found = bootstrap_difference(first, second, "test")
    assert found.observed == pytest.approx(-100 / 40)
    assert found.low == pytest.approx(-100 * 4 / 20)
    assert found.high == pytest.approx(100 * 2 / 60)
    assert found.improvement == pytest.approx(3 / 4, abs=0.02)
    back = bootstrap_difference(second, first, "test")
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_interval_of_many_utterances() -> None:
    """Utterances of 10 tokens with 1 error more or not, half and half: a binomial distribution."""
    first = substituted(*[(10, 0)] * 400)
    second = substituted(*[(10, n % 2) for n in range(400)])
    found = bootstrap_difference(first, second, "test")
    spread = 1.96 * 100 * math.sqrt(0.25 / 400) / 10
    assert found.observed == pytest.approx(5)
    assert found.low == pytest.approx(5 - spread, abs=0.05)
    assert found.high == pytest.approx(5 + spread, abs=0.05)
    assert found.improvement == 0 and found.reading == "second is worse"
    assert bootstrap_difference(first, second, "test") == found
    assert bootstrap_difference(first, second, "test", seed=1) != found


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([(3, 0), (4, 0)], [(3, 0)], "test, CER: 1 utterances are only in the first .* such as u1"),
        ([(3, 0)], [(3, 0), (4, 0)], "1 utterances are only in the second system's .* as u1"),
        ([(3, 0)], [(4, 0)], "reference of u0 has 3 tokens for the first system and 4 for"),
        ([(0, 0)], [(0, 0)], "hold no tokens"),
    ],
)
def test_others_are_refused(
    first: list[tuple[int, int]], second: list[tuple[int, int]], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as error:
        bootstrap_difference(substituted(*first), substituted(*second), "test, CER")
    assert "\n" not in str(error.value)
