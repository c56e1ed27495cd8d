"""Times of several candidates as ratios to one of them, on a machine that others use, too.

All candidates run in one process, one after the other, in rounds. Whatever slows the machine down
for a while then slows the whole round down, so that the ratio to the reference, which is taken
within the round, stays. The order rotates from round to round, and of the ratios the median and
the quartiles are told: a round that something has interrupted does not move them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Rounds that are run in any case, where `at_most` ends a measurement early.
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what the rounds gave."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def __format__(self, form: str) -> str:
        values = (self.median, self.lower_quartile, self.upper_quartile)
        return "{} ({}-{})".format(*(format(value, form) for value in values))

    def __str__(self) -> str:
        return f"{self:.2f}"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` has measured.

    Attributes:
        reference: Name of the candidate that the ratios are to.
        rounds: Number of rounds.
        seconds: Of one call, by candidate.
        ratios: To the reference within a round, by candidate, the reference's own 1 included.
    """

    reference: str
    rounds: int
    seconds: dict[str, Spread]
    ratios: dict[str, Spread]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def _repetitions(
    call: Callable[[], object], seconds: float, synchronize: Callable[[], object]
) -> int:
    """Calls that take about ``seconds`` together; makes three, the first of which warms up."""
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        call()
        synchronize()  # an accelerator has only been told what to do
        taken.append(time.perf_counter() - begin)
    return max(1, round(seconds / max(min(taken[1:]), 1e-7)))


def take_turns(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    at_most: float | None = None,
    synchronize: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time candidates in turn.

    Args:
        candidates: What to call, by name.
        rounds: How often every candidate's turn comes.
        seconds: Length of a turn, of as many calls as that takes; one call if it takes longer.
        at_most: Seconds after which no further round begins (three are run in any case).
        synchronize: Called at both ends of a turn, to wait for an accelerator.

    Returns:
        Seconds of one call in every round, by candidate.
    """
    repetitions = {
        name: _repetitions(call, seconds, synchronize) for name, call in candidates.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    begin = time.perf_counter()
    for done in range(rounds):
        if at_most is not None and done >= LEAST_ROUNDS and time.perf_counter() - begin > at_most:
            break
        for name in names:
            call = candidates[name]
            synchronize()
            turn = time.perf_counter()
            for _ in range(repetitions[name]):
                call()
            synchronize()
            taken[name].append((time.perf_counter() - turn) / repetitions[name])
        names = names[1:] + names[:1]
    return taken


def compare(
    candidates: Mapping[str, Callable[[], object]], *args: Any, **kwargs: Any
) -> Comparison:
    """Time candidates in turn (:func:`take_turns`); the first is the reference."""
    return summarize(take_turns(candidates, *args, **kwargs), next(iter(candidates)))


def summarize(taken: Mapping[str, Sequence[float]], reference: str) -> Comparison:
    """Put times of the same rounds, by candidate, into one :class:`Comparison`."""
    return Comparison(
        reference=reference,
        rounds=len(taken[reference]),
        seconds={name: Spread.of(values) for name, values in taken.items()},
        ratios={
            name: Spread.of([value / one for value, one in zip(values, taken[reference])])
            for name, values in taken.items()
        },
    )
