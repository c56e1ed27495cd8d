"""Greedy CTC: the likeliest token of every frame, and the text that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import editdistance  # of ESPnet, for the same

BLANK = 0  # ESPnet's token lists begin with it


@dataclass(frozen=True)
class Token:
    """A token where greedy CTC has it: the frames ``begin`` to ``end`` - 1."""

    number: int
    begin: int
    end: int


def collapse(frame_tokens: Sequence[int]) -> list[Token]:
    """Merge frames of the same token and leave out blanks (Graves et al. 2006, section 3.1)."""
    tokens: list[Token] = []
    begin = 0
    for frame in range(1, len(frame_tokens) + 1):
        if frame == len(frame_tokens) or frame_tokens[frame] != frame_tokens[begin]:
            if frame_tokens[begin] != BLANK:
                tokens.append(Token(frame_tokens[begin], begin, frame))
            begin = frame
    return tokens


def character_errors(hypothesis: str, reference: str) -> int:
    """Fewest substitutions, deletions and insertions of characters, spaces included."""
    return int(editdistance.eval(hypothesis, reference))
