"""Sentences of the miniature corpus: a small grammar of spoken Mandarin and its readings.

A sentence is a list of words; joined without spaces it has MIN_CHARS to MAX_CHARS characters.
Only the standard library and pypinyin are needed, and the same seed gives the same sentences on
every platform (:class:`random.Random` seeded by a string).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from command_line import UserError
from pypinyin import Style, lazy_pinyin
from pypinyin.style import convert

MIN_CHARS = 4
MAX_CHARS = 14

Sentence = list[str]

_DIGITS = "零一二三四五六七八九"
_ROOMS = ("客厅", "卧室", "厨房", "书房")
_DEVICES = ("灯", "空调", "窗帘", "电视", "风扇")
_PEOPLE = ("爸爸", "妈妈")
_DAYS = ("今天", "明天", "昨天")
_PARTS = ("早上", "上午", "下午", "晚上")
_CITIES = ("北京", "上海")
_ACTIONS = ("开会", "吃饭", "上班")
_PRODUCTS = ("苹果", "水", "米")

# Words that pypinyin's phrase table reads differently from what these sentences mean: 调 is "to
# adjust" (tiáo) throughout, not "to transfer" (diào).
_READINGS = {
    "调高": ["tiáo", "gāo"],
    "调低": ["tiáo", "dī"],
    "调到": ["tiáo", "dào"],
}


def chinese_number(number: int) -> str:
    """Return ``number`` (0 to 999) as it is said, e.g. 105 as 一百零五 and 12 as 十二."""
    if not 0 <= number <= 999:
        raise ValueError(f"number must be between 0 and 999, not {number}")
    if number < 10:
        return _DIGITS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        text = "十" if tens == 1 else _DIGITS[tens] + "十"
        return text + (_DIGITS[ones] if ones else "")
    hundreds, rest = divmod(number, 100)
    text = _DIGITS[hundreds] + "百"
    if rest == 0:
        return text
    if rest < 10:
        return text + "零" + _DIGITS[rest]
    return text + ("一" if rest < 20 else "") + chinese_number(rest)


def _count(number: int) -> str:
    """``number`` before a measure word: 两 instead of 二."""
    return "两" if number == 2 else chinese_number(number)


def _digits(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(_DIGITS) for _ in range(length))


def _time(rng: random.Random) -> Sentence:
    words = [_count(rng.randint(1, 12)), "点"]
    kind = rng.randrange(3)
    if kind == 1:
        words.append("半")
    elif kind == 2:
        words += [chinese_number(rng.randint(10, 59)), "分"]
    return words


def _maybe(rng: random.Random, words: Sequence[str]) -> Sentence:
    return [rng.choice(words)] if rng.random() < 0.5 else []


def _place(rng: random.Random) -> Sentence:
    return [rng.choice(_ROOMS), "的"] if rng.random() < 0.7 else []


def _switch(rng: random.Random) -> Sentence:
    device = [*_place(rng), rng.choice(_DEVICES)]
    kind = rng.randrange(4)
    if kind == 0:
        return [*device, rng.choice(("开", "关")), "了", "吗"]
    verb = rng.choice(("打开", "关闭"))
    if kind == 1:
        return [*_maybe(rng, ("请",)), "把", *device, verb]
    return [*_maybe(rng, ("请",)), verb, *device]


def _adjust(rng: random.Random) -> Sentence:
    if rng.random() < 0.5:
        goal = ["调到", chinese_number(rng.randint(10, 39)), "度"]
        return ["把", *_maybe(rng, _ROOMS), rng.choice(("空调", "温度")), *goal]
    volume = [*_maybe(rng, _ROOMS), *_maybe(rng, ("电视",)), "音量"]
    return [*volume, rng.choice(("调高", "调低")), *_maybe(rng, ("一点", "五度", "十度"))]


def _remind(rng: random.Random) -> Sentence:
    when = [*_maybe(rng, _DAYS[:2]), rng.choice(_PARTS), *_time(rng)]
    return [*when, "叫", "我", rng.choice(_ACTIONS)]


def _clock(rng: random.Random) -> Sentence:
    return ["现在", "是", *_maybe(rng, _PARTS), *_time(rng)]


def _date(rng: random.Random) -> Sentence:
    day = [chinese_number(rng.randint(1, 12)), "月", chinese_number(rng.randint(1, 30)), "号"]
    kind = rng.randrange(3)
    if kind == 0:
        return ["二零" + _digits(rng, 2), "年", *day]
    if kind == 1:
        return [rng.choice(_DAYS), "是", *day]
    return [*day, "是", "周" + rng.choice(_DIGITS[1:7])]


def _price(rng: random.Random) -> Sentence:
    if rng.random() < 0.5:
        price = [_count(rng.randint(1, 12)), "块", chinese_number(rng.randint(1, 9)), "毛"]
        return [rng.choice(_PRODUCTS), *price, *rng.choice(((), ("一", "斤")))]
    kind = rng.choice(("火车票", "飞机票", "车票"))
    return [*_maybe(rng, _CITIES), kind, chinese_number(rng.randint(100, 999)), "元"]


def _phone(rng: random.Random) -> Sentence:
    if rng.random() < 0.6:
        owner = rng.choice(("我", *_PEOPLE))
        return [owner, "的", "电话", "是", _digits(rng, rng.choice((7, 8)))]
    when = [rng.choice(_DAYS[:2]), *_maybe(rng, _PARTS)]
    return [*rng.choice(([], when)), "给", rng.choice(_PEOPLE), "打", "电话"]


def _shop(rng: random.Random) -> Sentence:
    verb = rng.choice(("我 要 买", "去 买", "请 给 我")).split()
    amount = [_count(rng.randint(1, 12)), "斤"]
    return [*_maybe(rng, _DAYS[:2]), *verb, *amount, rng.choice(_PRODUCTS)]


def _travel(rng: random.Random) -> Sentence:
    when = [*_maybe(rng, _DAYS[:2]), rng.choice(_PARTS), *_time(rng)]
    if rng.random() < 0.5:
        return [*when, "去", rng.choice((*_CITIES, "吃饭", "开会"))]
    vehicle = rng.choice(("火车", "飞机"))
    return [*when, rng.choice(("到", "去")), rng.choice(_CITIES), "的", vehicle]


def _timer(rng: random.Random) -> Sentence:
    wait = ["过", _count(rng.randint(2, 60)), "分钟"]
    if rng.random() < 0.3:
        return [*wait, "叫", "我", rng.choice(_ACTIONS)]
    return [*wait, rng.choice(("打开", "关闭")), *_place(rng), rng.choice(_DEVICES)]


def _weather(rng: random.Random) -> Sentence:
    when = [rng.choice(_DAYS), *_maybe(rng, _PARTS)]
    place = _maybe(rng, (*_CITIES, *_ROOMS))
    if rng.random() < 0.7:
        return [*_maybe(rng, _CITIES), *when, "天气", "怎么样"]
    return [*place, *when, chinese_number(rng.randint(1, 39)), "度"]


# Repeats are weights: kinds with many distinct sentences are drawn more often.
_KINDS: tuple[Callable[[random.Random], Sentence], ...] = (
    *(_switch, _adjust, _remind, _clock, _date, _price),
    *(_phone, _shop, _travel, _timer, _weather),
    *(_switch, _adjust, _date, _price, _price, _phone, _shop, _travel, _weather),
    *(_switch, _switch, _adjust),
)

# Of a set, so that too small a grammar does not draw for ever.
_DRAWS_PER_SENTENCE = 1000


def draw_sentences(
    train_sentences: int, dev_sentences: int, test_sentences: int, seed: int
) -> dict[str, list[Sentence]]:
    """Draw the sentences of the three sets from the grammar.

    Arguments, result and errors: :func:`draw_sets`.
    """
    rng = random.Random(f"sentences {seed}")

    def draw(characters: frozenset[str] | None) -> Sentence | None:
        words = rng.choice(_KINDS)(rng)
        text = "".join(words)
        fits = MIN_CHARS <= len(text) <= MAX_CHARS
        return words if fits and (characters is None or characters.issuperset(text)) else None

    sizes = {"train": train_sentences, "dev": dev_sentences, "test": test_sentences}
    return draw_sets(sizes, draw, _DRAWS_PER_SENTENCE, "the grammar")


def draw_sets(
    sizes: Mapping[str, int],
    draw: Callable[[frozenset[str] | None], Sentence | None],
    draws_per_sentence: int,
    source: str,
) -> dict[str, list[Sentence]]:
    """Draw sets of sentences, none of them twice, in one set or in two.

    Args:
        sizes: Number of sentences of each set; the first is ``train``.
        draw: Gives a sentence of the given characters (those of ``train``; None: any), or None
            where what it drew does not fit.
        draws_per_sentence: How often it is called for a set, at most, per sentence of the set.
        source: What the sentences come from; for the message.

    Returns:
        ``{"train": ..., "dev": ..., "test": ...}``, each a list of lists of words.

    Raises:
        UserError: the source has too few sentences for these numbers, or so few training
            sentences were asked for that their characters do not allow the others.
    """
    seen: set[str] = set()
    characters: frozenset[str] | None = None
    sets: dict[str, list[Sentence]] = {}
    for name, size in sizes.items():
        sentences: list[Sentence] = []
        for _ in range(size * draws_per_sentence):
            if len(sentences) == size:
                break
            words = draw(characters)
            if words is None or (text := "".join(words)) in seen:
                continue
            seen.add(text)
            sentences.append(words)
        if len(sentences) < size:
            beside = "" if characters is None else f" beside {sizes['train']} training sentences"
            raise UserError(
                f"--{name}_sentences {size}: {source} gives only {len(sentences)}{beside}"
            )
        if characters is None:
            characters = frozenset().union(*("".join(words) for words in sentences))
        sets[name] = sentences
    return sets


def syllables(words: Sentence) -> list[str]:
    """Return one toned syllable per character, named as gcin-voice names its folders.

    That is zhuyin followed by the tone: nothing for the first, 2 to 4, and 1 for the neutral tone
    (``ㄎㄞ``, ``ㄊㄧㄠ2``, ``ㄉㄜ1``). Dictionary tones: no tone sandhi is applied, since the
    recordings are of single syllables.
    """
    return [_folder_name(syllable) for syllable in _readings(words, Style.BOPOMOFO)]


def pinyin(words: Sentence) -> list[str]:
    """Return one syllable per character in pinyin with the tone's number, 5 for the neutral one.

    ``ü`` is ``v`` (``kai1``, ``nv3``, ``de5``). Tones as in :func:`syllables`.
    """
    return [s if s[-1].isdigit() else f"{s}5" for s in _readings(words, Style.TONE3)]


def _readings(words: Sentence, style: Style) -> list[str]:
    result: list[str] = []
    for word in words:
        reading = [convert(syllable, style, strict=True) for syllable in _READINGS.get(word, [])]
        reading = reading or lazy_pinyin(word, style=style)
        # pypinyin's phrases have sandhi in a few numbers (一百 as yì bǎi) and not in others.
        one = convert("yī", style, strict=True)
        result += [one if c == "一" else r for c, r in zip(word, reading, strict=True)]
    return result


def _folder_name(syllable: str) -> str:
    for mark, digit in (("˙", "1"), ("ˊ", "2"), ("ˇ", "3"), ("ˋ", "4")):
        if mark in syllable:
            return syllable.replace(mark, "") + digit
    return syllable
