"""Sentences with the vocabulary of a dictionary: random words of pypinyin's table of phrases.

They mean nothing, but have some 4,800 different characters in random surroundings, of the order of
AISHELL-1's 4,230, where the grammar of mini_sentences.py has a hundred.
"""

from __future__ import annotations

import random
from functools import cache

from mini_sentences import Sentence, draw_sets
from pypinyin.phrases_dict import phrases_dict

# With words of three characters on average, lengths as in AISHELL-1, whose mean is 14.4.
_WORDS = (3, 7)
_WORD_CHARACTERS = (2, 4)
# Of a set, so that no sentence can be in two without the draw ever ending.
_DRAWS_PER_SENTENCE = 100


@cache
def vocabulary(characters: frozenset[str] | None = None) -> tuple[str, ...]:
    """Words of two to four characters, all of them in the standard GB 2312 of simplified script.

    Args:
        characters: Leave out words with others than these; None: none is left out.
    """
    if characters is not None:
        return tuple(word for word in vocabulary() if characters.issuperset(word))
    shortest, longest = _WORD_CHARACTERS
    return tuple(
        sorted(
            word
            for word in phrases_dict
            if shortest <= len(word) <= longest and all(_is_simplified(c) for c in word)
        )
    )


def _is_simplified(character: str) -> bool:
    return bool(character.encode("gb2312", errors="ignore"))


def draw_sentences(
    train_sentences: int, dev_sentences: int, test_sentences: int, seed: int
) -> dict[str, list[Sentence]]:
    """Draw the sentences of the three sets.

    Arguments, result and errors: :func:`mini_sentences.draw_sets`.
    """
    rng = random.Random(f"phrases {seed}")

    def draw(characters: frozenset[str] | None) -> Sentence:
        words = vocabulary(characters)
        return [rng.choice(words) for _ in range(rng.randint(*_WORDS))]

    sizes = {"train": train_sentences, "dev": dev_sentences, "test": test_sentences}
    return draw_sets(sizes, draw, _DRAWS_PER_SENTENCE, "the table of phrases")
