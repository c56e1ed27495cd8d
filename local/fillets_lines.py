"""The dialogues of Fish Fillets NG: every line with its speaker, text and recording."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from command_line import UserError
from fillets_split import Utterance
from fillets_text import DroppedLine, normalise_text
from lua_dialogs import DialogLine, LuaSyntaxError, read_dialogs

GAME_FOLDER = Path("usr/share/games/fillets-ng")
# The folder of the recordings that belongs to script/share/<kind>_dialogs_<lang>.lua, as the
# game's own calls of dialogLoad pair them.
SHARED_SOUND = {
    "black": "blackjokes",
    "bore": "borejokes",
    "border": "border",
    "intro": "intro",
    "shout": "border",
}


def speaker_of(font: str) -> str:
    """Return the speaker id of a Lua font name: ``font_small`` is ``small``, none is ``other``."""
    return re.sub(r"[^a-z0-9]", "", font.lower().removeprefix("font_")) or "other"


def find_roots(folders: Sequence[Path], lang: str) -> list[Path]:
    """Return the game's folders in ``folders``: each is one itself or an unpacked package.

    Raises:
        UserError: no folder holds dialogue texts, or none holds recordings, of ``lang``.
    """
    roots = [f / GAME_FOLDER if (f / GAME_FOLDER).is_dir() else f for f in folders]
    named = ", ".join(str(f) for f in folders)
    for pattern, package in (
        (f"script/*/*dialogs_{lang}.lua", "fillets-ng-data"),
        (f"sound/*/{lang}/*.ogg", f"fillets-ng-data-{lang}"),
    ):
        if not any(next(root.glob(pattern), None) for root in roots):
            raise UserError(
                f"no file {pattern} in {named} (nor in {GAME_FOLDER} there): expected the unpacked"
                f" Debian package {package}"
            )
    return roots


def collect_lines(roots: Sequence[Path], lang: str, dropped: Counter[str]) -> list[Utterance]:
    """Pair every line of dialogue with its recording, in the order of the utterance ids.

    ``dropped`` is given the number of lines left out for each reason.

    Raises:
        UserError: a dialogue file is not readable Lua in UTF-8, or no line is left.
    """
    found: dict[str, Utterance] = {}
    hashes: dict[str, str] = {}
    for root in roots:
        for script in sorted(root.glob(f"script/*/*dialogs_{lang}.lua")):
            try:
                lines = read_dialogs(script)
            except (LuaSyntaxError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read {script}: {error}") from error
            folder = _sound_folder(script)
            for line in lines:
                try:
                    utterance = _pair(line, script, folder, roots, lang)
                    if utterance.utt_id in found:
                        raise DroppedLine("repeated line id")
                    digest = hashlib.sha256(utterance.sound.read_bytes()).hexdigest()
                    if digest in hashes:
                        raise DroppedLine("recording used before")
                except DroppedLine as reason:
                    dropped[str(reason)] += 1
                    continue
                hashes[digest] = utterance.utt_id
                found[utterance.utt_id] = utterance
    if not found:
        raise UserError(f"no line with text and recording in {', '.join(map(str, roots))}")
    return [found[utt_id] for utt_id in sorted(found)]


def _sound_folder(script: Path) -> str:
    level = script.parent.name
    if level != "share":
        return level
    kind = script.name.partition("_")[0]
    return f"share/{SHARED_SOUND.get(kind, kind)}"


def _pair(
    line: DialogLine, script: Path, folder: str, roots: Sequence[Path], lang: str
) -> Utterance:
    candidates = [root / "sound" / folder / lang / f"{line.dialog_id}.ogg" for root in roots]
    sound = next((path for path in candidates if path.is_file()), None)
    if sound is None:
        raise DroppedLine("no recording")
    if line.text is None:
        raise DroppedLine("not translated")
    speaker = speaker_of(line.font)
    level = folder.rpartition("/")[2]
    utt_id = f"{speaker}-{level}-{line.dialog_id}"
    if re.search(r"[^A-Za-z0-9_.-]", utt_id):
        raise UserError(f"{script}: {line.dialog_id!r} cannot be part of an utterance id")
    text = normalise_text(line.text, lang)
    return Utterance(utt_id, speaker, level, script.parent.name == "share", text, sound)
