"""How much of a difference between two systems the choice of the test utterances may explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_moe_share.comparison.sclite import Errors
from espnet_moe_share.errors import ConfigurationError

RESAMPLES = 10_000
SEED = 0
_CHUNK = 1 << 22  # drawn utterances that are held in memory at once


@dataclass(frozen=True)
class Difference:
    """Error rate of the second system minus that of the first, in percentage points.

    Attributes:
        observed: On the test set itself.
        low, high: Bounds of the 95 % interval over resamples.
        improvement: Share of the resamples in which the second system makes fewer errors.
    """

    observed: float
    low: float
    high: float
    improvement: float

    @property
    def reading(self) -> str:
        """What the interval says, in words."""
        if self.low > 0:
            return "second is worse"
        if self.high < 0:
            return "second is better"
        return "may be chance"


def bootstrap_difference(
    first: Mapping[str, Errors],
    second: Mapping[str, Errors],
    what: str,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Paired bootstrap over utterances (Bisani & Ney 2004, ICASSP, sections 2 and 3).

    Each resample draws as many utterances as there are, with replacement, the same for both
    systems; its difference is that of the errors of the two divided by the reference tokens drawn.
    The interval holds the middle 95 % of these differences.

    Args:
        first: Utterance -> errors of the first system.
        second: Of the second, for the same utterances.
        what: Begins the message of an error.
        resamples: How many.
        seed: Of the random numbers.

    Raises:
        ConfigurationError: The two do not have the same utterances with the same references.
    """
    _check_same(first, second, what)
    utterances = sorted(first)
    tokens = np.array([first[utterance].tokens for utterance in utterances])
    more = np.array([second[u].errors - first[u].errors for u in utterances])
    differences = _resampled(more, tokens, resamples, np.random.default_rng(seed))
    low, high = np.quantile(differences, [0.025, 0.975])
    observed = more.sum() / tokens.sum()
    return Difference(
        100 * float(observed), 100 * float(low), 100 * float(high), float((differences < 0).mean())
    )


def _resampled(
    more: np.ndarray, tokens: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Differences of all resamples (resamples,)."""
    rows = max(1, _CHUNK // len(tokens))
    parts = []
    for begin in range(0, resamples, rows):
        drawn = rng.integers(len(tokens), size=(min(rows, resamples - begin), len(tokens)))
        # A resample may hold no token at all where the set has empty references.
        parts.append(more[drawn].sum(axis=1) / np.maximum(tokens[drawn].sum(axis=1), 1))
    return np.concatenate(parts)


def _check_same(first: Mapping[str, Errors], second: Mapping[str, Errors], what: str) -> None:
    missing: Sequence[str] = sorted(first.keys() - second.keys())
    extra: Sequence[str] = sorted(second.keys() - first.keys())
    for utterances, place in ((missing, "first"), (extra, "second")):
        if utterances:
            raise ConfigurationError(
                f"{what}: {len(utterances)} utterances are only in the {place} system's results, "
                f"such as {utterances[0]}; decode and score the same set with both"
            )
    for utterance, errors in first.items():
        if (other := second[utterance]).tokens != errors.tokens:
            raise ConfigurationError(
                f"{what}: the reference of {utterance} has {errors.tokens} tokens for the first "
                f"system and {other.tokens} for the second; score both with the same references"
            )
    if not sum(errors.tokens for errors in first.values()):
        raise ConfigurationError(f"{what}: the references hold no tokens")
