"""Split the dialogues of Fish Fillets NG into training, dev and test sets by whole levels.

Lines that every level may play (the game's ``share`` folder) are training data. Of many random
assignments of the levels to sets, the one is taken that has both fish and no untrained character
in the dev and test sets, holds about 5 % and 9 % of the audio in them, and repeats fewest
training texts there. Few repetitions favour levels with long lines for the dev and test sets:
short ones, such as "ja", occur in most levels.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import UserError

DEV_SHARE = 0.05
TEST_SHARE = 0.09
SHARE_TOLERANCE = 0.01
SPLIT_TRIALS = 400
MAIN_SPEAKERS = ("small", "big")


@dataclass(frozen=True)
class Utterance:
    """One line of dialogue with its recording.

    ``level`` is the name of the level (of the folder of the recordings for shared lines),
    ``shared`` says that the line is in ``script/share``, ``seconds`` is the duration.
    """

    utt_id: str
    speaker: str
    level: str
    shared: bool
    text: str
    sound: Path
    seconds: float = 0.0


def split_levels(utterances: Sequence[Utterance], seed: int) -> dict[str, list[Utterance]]:
    """Assign whole levels to ``train``, ``dev`` and ``test``; the same seed gives the same sets.

    Raises:
        UserError: there are fewer than three levels that are not shared.
    """
    levels: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        levels["" if utterance.shared else utterance.level].append(utterance)
    shared = levels.pop("", [])
    if len(levels) < 3:
        raise UserError(
            f"lines of {len(levels)} level(s) are not enough to split by level: at least 3 needed"
        )
    seconds = {level: sum(u.seconds for u in lines) for level, lines in levels.items()}
    total = sum(seconds.values()) + sum(u.seconds for u in shared)
    generator = random.Random(seed)
    best: dict[str, list[Utterance]] = {}
    best_cost: tuple[float, ...] | None = None
    names = sorted(levels)
    for _ in range(SPLIT_TRIALS):
        generator.shuffle(names)
        sets: dict[str, list[Utterance]] = {"train": list(shared), "dev": [], "test": []}
        size = {"dev": 0.0, "test": 0.0}
        for level in names:
            for name, share in (("test", TEST_SHARE), ("dev", DEV_SHARE)):
                after = size[name] + seconds[level]
                target = share * total
                if not sets[name] or abs(after - target) < abs(size[name] - target):
                    sets[name] += levels[level]
                    size[name] = after
                    break
            else:
                sets["train"] += levels[level]
        cost = _split_cost(sets, size["dev"] / total, size["test"] / total)
        if best_cost is None or cost < best_cost:
            best, best_cost = sets, cost
    return {name: sorted(lines, key=lambda u: u.utt_id) for name, lines in best.items()}


def _split_cost(
    sets: dict[str, list[Utterance]], dev_share: float, test_share: float
) -> tuple[float, ...]:
    trained = set("".join(u.text for u in sets["train"]))
    missing_roles = 0
    unseen = set()
    for name in ("dev", "test"):
        missing_roles += len(set(MAIN_SPEAKERS) - {u.speaker for u in sets[name]})
        unseen |= set("".join(u.text for u in sets[name])) - trained
    away = max(abs(dev_share - DEV_SHARE), abs(test_share - TEST_SHARE))
    return (
        missing_roles + (not sets["train"]),
        len(unseen),
        max(0.0, away - SHARE_TOLERANCE),
        repeated_texts(sets["test"], sets["train"])
        + repeated_texts(sets["dev"], sets["train"])
        + repeated_texts(sets["test"], sets["dev"]),
        away,
    )


def repeated_texts(lines: Iterable[Utterance], others: Iterable[Utterance]) -> int:
    """Return how many of ``lines`` have a text that occurs in ``others``."""
    texts = {u.text for u in others}
    return sum(u.text in texts for u in lines)
