"""Greedy CTC by hand."""

from espnet_moe_share.usage.greedy_ctc import Token, character_errors, collapse


def test_repetitions_and_blanks() -> None:
    assert collapse([0, 3, 3, 0, 3, 2, 2, 0]) == [Token(3, 1, 3), Token(3, 4, 5), Token(2, 5, 7)]
    assert collapse([4]) == [Token(4, 0, 1)]
    assert collapse([0, 0]) == [] == collapse([])


def test_character_errors() -> None:
    assert character_errors("二十一", "二一") == 1
    assert character_errors("", "a b") == 3
    assert character_errors("abc", "abc") == 0
