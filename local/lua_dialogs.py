"""Read the dialogue files of Fish Fillets NG, which are Lua programs of two calls.

``dialogId("<id>", "<font>", "<English>")`` names a line and ``dialogStr("<text>")`` gives its
text. Only strings and their concatenation are evaluated (Lua 5.4 reference manual, section 3.1);
no Lua is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class LuaSyntaxError(ValueError):
    """A dialogue file is not what Lua accepts; the message names the line."""


@dataclass(frozen=True)
class DialogLine:
    """One line of dialogue; ``text`` is None where no ``dialogStr`` follows the ``dialogId``."""

    dialog_id: str
    font: str
    text: str | None


_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>--\[(?P<ceq>=*)\[.*?\](?P=ceq)\]|--(?!\[=*\[)[^\n]*)
    |(?P<long>\[(?P<eq>=*)\[\n?(?P<body>.*?)\](?P=eq)\])
    |(?P<short>"(?:[^"\\\n]|\\z\s*|\\.)*"|'(?:[^'\\\n]|\\z\s*|\\.)*')
    |(?P<name>[A-Za-z_]\w*)
    |(?P<other>\.\.|.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:(?P<dec>\d{1,3})|x(?P<hex>[0-9A-Fa-f]{2})|u\{(?P<uni>[0-9A-Fa-f]+)\}"
    r"|(?P<skip>z)\s*|(?P<char>.))",
    re.DOTALL,
)
_CONTROL = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def read_dialogs(path: Path) -> list[DialogLine]:
    """Return the lines of a UTF-8 dialogue file.

    Raises:
        LuaSyntaxError: see ``parse_dialogs``.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return parse_dialogs(path.read_text(encoding="utf-8-sig"))


def parse_dialogs(source: str) -> list[DialogLine]:
    """Return the lines that ``dialogId`` and ``dialogStr`` define, in their order.

    Calls of other functions are passed over.

    Raises:
        LuaSyntaxError: an unfinished string or comment, an argument that is not a string, a wrong
            number of arguments, or a ``dialogStr`` without a ``dialogId`` before it.
    """
    tokens = list(_tokens(source))
    lines: list[DialogLine] = []
    pending = False
    position = 0
    while position < len(tokens):
        kind, value, line_number = tokens[position]
        position += 1
        if kind != "name" or value not in ("dialogId", "dialogStr"):
            continue
        arguments, position = _arguments(tokens, position, line_number)
        if value == "dialogId":
            if len(arguments) not in (2, 3):
                raise LuaSyntaxError(
                    f"line {line_number}: dialogId has {len(arguments)} arguments, not 3"
                )
            lines.append(DialogLine(arguments[0], arguments[1], None))
            pending = True
        else:
            if len(arguments) != 1 or not pending:
                raise LuaSyntaxError(
                    f"line {line_number}: dialogStr must have one argument and follow a dialogId"
                )
            lines[-1] = DialogLine(lines[-1].dialog_id, lines[-1].font, arguments[0])
            pending = False
    return lines


def _tokens(source: str) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, value, line number); kind is ``string``, ``name`` or ``other``."""
    source = source.replace("\r\n", "\n")
    line_number = 1
    for match in _TOKEN.finditer(source):
        value = match.group()
        if match["long"] is not None:
            yield "string", match["body"], line_number
        elif match["short"] is not None:
            yield "string", _unescape(value[1:-1], line_number), line_number
        elif match["name"] is not None:
            yield "name", value, line_number
        elif match["other"] is not None:
            if value in "\"'" or (value == "-" and source.startswith("--[", match.start())):
                raise LuaSyntaxError(f"line {line_number}: string or comment without an end")
            yield "other", value, line_number
        line_number += value.count("\n")


def _unescape(text: str, line_number: int) -> str:
    def bytes_of(match: re.Match[str]) -> bytes:
        if match["dec"]:
            if int(match["dec"]) > 255:
                raise LuaSyntaxError(f"line {line_number}: escape {match.group()} is over 255")
            return bytes([int(match["dec"])])
        if match["hex"]:
            return bytes([int(match["hex"], 16)])
        if match["uni"]:
            return chr(int(match["uni"], 16)).encode()
        if match["skip"]:
            return b""
        # The game's Lua 5.0 takes an unknown escape for the character itself ("\/").
        return _CONTROL.get(match["char"], match["char"]).encode()

    # Numeric escapes are bytes, so a UTF-8 character may be spread over several of them.
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts += [text[end : match.start()].encode(), bytes_of(match)]
        end = match.end()
    parts.append(text[end:].encode())
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError as error:
        raise LuaSyntaxError(f"line {line_number}: the escapes are not UTF-8") from error


def _arguments(
    tokens: list[tuple[str, str, int]], position: int, line_number: int
) -> tuple[list[str], int]:
    """Return the string arguments of a call and the position after it."""
    arguments: list[str] = []
    if position < len(tokens) and tokens[position][0] == "string":
        return [tokens[position][1]], position + 1
    expected = "("
    for index in range(position, len(tokens)):
        kind, value, _ = tokens[index]
        if expected == "(" and value == "(" and kind == "other":
            expected = "string"
        elif expected == "string" and kind == "string":
            arguments.append(value)
            expected = "next"
        elif expected == "append" and kind == "string":
            arguments[-1] += value
            expected = "next"
        elif expected == "next" and kind == "other" and value in (",", "..", ")"):
            if value == ")":
                return arguments, index + 1
            expected = "string" if value == "," else "append"
        else:
            break
    raise LuaSyntaxError(f"line {line_number}: expected strings in parentheses after the call")
