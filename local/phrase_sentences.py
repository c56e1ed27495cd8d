"""Sentences with the vocabulary of a dictionary: random words of pypinyin's table of phrases.

They mean nothing, but have some 4,800 different characters in random surroundings, of the order of
AISHELL-1's 4,230, where the grammar of mini_sentences.py has a hundred.
"""

from __future__ import annotations

import random
from functools import cache

from command_line import UserError
from mini_sentences import Sentence
from pypinyin.phrases_dict import phrases_dict

# With words of three characters on average, lengths as in AISHELL-1, whose mean is 14.4.
_WORDS = (3, 7)
_WORD_CHARACTERS = (2, 4)
# Of a set, so that no sentence can be in two without the draw ever ending.
_DRAWS_PER_SENTENCE = 100


@cache
def vocabulary() -> tuple[str, ...]:
    """Words of two to four characters, all of them in the standard GB 2312 of simplified script."""
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

    No sentence is drawn twice, in one set or in two, and every character of ``dev`` and ``test``
    occurs in ``train``.

    Returns:
        ``{"train": ..., "dev": ..., "test": ...}``, each a list of lists of words.

    Raises:
        UserError: so few training sentences were asked for that their words do not give the others.
    """
    rng = random.Random(f"phrases {seed}")
    words: tuple[str, ...] = vocabulary()
    seen: set[str] = set()
    sets: dict[str, list[Sentence]] = {}
    sizes = {"train": train_sentences, "dev": dev_sentences, "test": test_sentences}
    for name, size in sizes.items():
        sentences: list[Sentence] = []
        for _ in range(size * _DRAWS_PER_SENTENCE):
            if len(sentences) == size:
                break
            sentence = [rng.choice(words) for _ in range(rng.randint(*_WORDS))]
            if (text := "".join(sentence)) not in seen:
                seen.add(text)
                sentences.append(sentence)
        if len(sentences) < size:
            raise UserError(
                f"--{name}_sentences {size}: the words of {train_sentences} training sentences give"
                f" only {len(sentences)}"
            )
        if name == "train":
            known = set("".join("".join(sentence) for sentence in sentences))
            words = tuple(word for word in words if known.issuperset(word))
        sets[name] = sentences
    return sets
