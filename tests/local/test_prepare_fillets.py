"""The fillets recipe's data preparation, on a small tree of tones and dialogue files."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import command_line
import lua_dialogs
import numpy as np
import prepare_fillets
import pytest
import soundfile
from command_line import UserError
from fillets_audio import decode
from fillets_lines import GAME_FOLDER, collect_lines, find_roots
from fillets_split import Utterance, repeated_texts, split_levels
from fillets_text import DroppedLine, normalise_text

LEVELS = 12
WORDS = ["zeven", "rode", "vissen", "zwemmen", "heel", "langzaam", "naar", "boven", "toe"]


def write_tone(path: Path, seconds: float, frequency: float, rate: int = 22050) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    left = 0.3 * np.sin(2 * np.pi * frequency * time)
    soundfile.write(path, np.stack([left, left], axis=1), rate, format="OGG", subtype="VORBIS")


def dialog(dialog_id: str, font: str, text: str) -> str:
    return f'dialogId("{dialog_id}", "{font}", "English")\ndialogStr("{text}")\n\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked packages: 12 levels of four lines, shared lines, and one of every defect."""
    root = tmp_path_factory.mktemp("packages")
    game = root / GAME_FOLDER
    for level in range(LEVELS):
        source = ""
        for line in range(4):
            font = ("font_small", "font_big")[line % 2]
            text = " ".join(WORDS[(level + line + i) % 9] for i in range(4)) + " " + "x" * level
            source += dialog(f"id-{line}", font, f"{text}!")
            # The frequency makes every recording differ, as recordings do.
            write_tone(game / f"sound/level{level}/nl/id-{line}.ogg", 0.2, 200 + 9 * level + line)
        script = game / f"script/level{level}/dialogs_nl.lua"
        script.parent.mkdir(parents=True)
        script.write_text(source, encoding="utf-8")
    (game / "script/share").mkdir()
    (game / "script/share/bore_dialogs_nl.lua").write_text(
        dialog("joke", "font_big", "Zeven rode vissen zwemmen")
    )
    write_tone(game / "sound/share/borejokes/nl/joke.ogg", 0.2, 900, rate=44100)
    defects = game / "script/level0/demo_dialogs_nl.lua"
    defects.write_text(
        dialog("silent", "font_big", "Niets te horen")
        + dialog("absent", "font_big", "Zonder geluid")
        + dialog("broken", "font_big", "Kapot")
        + dialog("foreign", "font_big", "Подожди")
        + dialog("digit", "font_big", "Toets F2")
        + dialog("wordless", "font_small", "...!")
        + dialog("again", "font_small", "Nog eens"),
        encoding="utf-8",
    )
    sound = game / "sound/level0/nl"
    for name in ("foreign", "digit", "wordless"):
        write_tone(sound / f"{name}.ogg", 0.1, 500)
    write_tone(sound / "silent.ogg", 0.0, 500)
    (sound / "broken.ogg").write_bytes(b"not audio")
    (sound / "again.ogg").write_bytes((game / "sound/level5/nl/id-0.ogg").read_bytes())
    return root


def run(tree: Path, out: Path, *options: str) -> int:
    """Run the program as the command line does; return its exit status."""
    paths = ["--fillets", str(tree), "--wav-dir", str(out / "wav"), "--data-dir", str(out / "data")]
    try:
        command_line.run(lambda: prepare_fillets.main([*paths, *options]))
    except SystemExit as status:
        return int(status.code or 0)
    return 0


def rows(path: Path) -> dict[str, str]:
    return dict(row.split(" ", 1) for row in path.read_text(encoding="utf-8").splitlines())


def test_lua_strings_are_evaluated() -> None:
    source = r"""
-- dialogStr("in a comment")
--[[ dialogId("in a long comment", "", "") ]]
other("dialogStr", 3)
dialogId("a-1", "font_big",
         "one " .. 'two')
dialogStr(
    "say \"hi\"\t\65\195\169" .. ' it\'s \/etc' ..
    [[ long
line]])
dialogId("a-2", "font_small", "no text")
dialogId("a-3", "", "")
dialogStr "split \
here \z
          end"
"""
    assert lua_dialogs.parse_dialogs(source) == [
        lua_dialogs.DialogLine("a-1", "font_big", 'say "hi"\tAé it\'s /etc long\nline'),
        lua_dialogs.DialogLine("a-2", "font_small", None),
        lua_dialogs.DialogLine("a-3", "", "split \nhere end"),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('dialogId("a", "b", "c")\ndialogStr("no end)\n', "line 2: string or comment"),
        ("\n--[[ no end", "line 2: string or comment"),
        ('dialogStr("text")', "line 1: dialogStr must"),
        ('dialogId("a", "b", "c")\ndialogStr(variable)', "line 2: expected strings"),
        ('dialogId("a")', "line 1: dialogId has 1 arguments"),
        ('dialogId("a", "b", "c"', "line 1: expected strings"),
    ],
)
def test_bad_lua_is_refused_with_its_line(source: str, message: str) -> None:
    with pytest.raises(lua_dialogs.LuaSyntaxError, match=message):
        lua_dialogs.parse_dialogs(source)


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("nl", "Zo'n   foto’s? 'Ja', 't is 'n “grap”...", "zo'n foto's ja 't is 'n grap"),
        ("nl", "B-blonde IDEE\u0308N - één (echt);", "b blonde ideën één echt"),
        ("cs", "Chceš-li 'potvoru’, vypad’!", "chceš li potvoru vypad"),
    ],
)
def test_normalised_text(lang: str, text: str, expected: str) -> None:
    assert normalise_text(text, lang) == expected
    assert normalise_text(expected, lang) == expected


@pytest.mark.parametrize(
    ("lang", "text", "reason"),
    [
        ("cs", "Подожди, počkej", "another alphabet"),
        ("nl", "Počkej", "another alphabet"),
        ("nl", "toets F2", "digit"),
        ("nl", "C++", "digit or symbol"),
        ("nl", " ...! ", "no word"),
    ],
)
def test_unusable_text_is_dropped(lang: str, text: str, reason: str) -> None:
    with pytest.raises(DroppedLine, match=reason):
        normalise_text(text, lang)


def test_sets_and_what_is_left_out(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree, tmp_path) == 0
    report = capsys.readouterr().out
    for reason in (
        "no recording",
        "empty recording",
        "unreadable recording",
        "letter of another alphabet",
        "digit or symbol",
        "no word in the text",
        "recording used before",
    ):
        assert f"left out, {reason}: 1\n" in report
    assert "level0/nl/silent.ogg" in report
    assert "level0/nl/broken.ogg" in report

    levels: dict[str, set[str]] = {}
    total = 0
    for name in ("train", "dev", "test"):
        directory = tmp_path / f"data/{name}_nl"
        files = {f: rows(directory / f) for f in ("wav.scp", "text", "utt2spk", "spk2utt")}
        ids = list(files["text"])
        assert ids == sorted(ids) == list(files["wav.scp"]) == list(files["utt2spk"])
        assert set(files["spk2utt"]) == {"small", "big"}
        assert {u: s for s, us in files["spk2utt"].items() for u in us.split()} == files["utt2spk"]
        levels[name] = {utt_id.split("-")[1] for utt_id in ids}
        total += len(ids)
        for utt_id, wav in files["wav.scp"].items():
            assert utt_id.startswith(files["utt2spk"][utt_id] + "-")
            info = soundfile.info(wav)
            assert (info.samplerate, info.channels) == (16000, 1)
            assert info.duration == pytest.approx(0.2, abs=1e-3)
    assert total == LEVELS * 4 + 1
    assert sum(map(len, levels.values())) == LEVELS + 1
    assert "borejokes" in levels["train"]
    train = rows(tmp_path / "data/train_nl/text")
    assert train["big-borejokes-joke"] == "zeven rode vissen zwemmen"


def test_decoded_tone_keeps_pitch_and_level(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.ogg", 1.0, 440)
    assert decode(tmp_path / "a.ogg", tmp_path / "a.wav") == pytest.approx(1.0)
    samples, rate = soundfile.read(tmp_path / "a.wav")
    spectrum = np.abs(np.fft.rfft(samples)) / len(samples) * 2
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=1)
    assert spectrum.max() == pytest.approx(0.3, rel=0.05)


def test_second_call_changes_nothing_and_repairs_what_is_cut_off(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree, tmp_path) == 0
    first = capsys.readouterr().out
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    cut = sorted((tmp_path / "wav").iterdir())[3]
    cut.write_bytes(files[cut][1][:1000])
    (tmp_path / "data/dev_nl/text").unlink()
    assert run(tree, tmp_path) == 0
    assert capsys.readouterr().out == first
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {
        path: data for path, (_, data) in files.items()
    }
    for path, (mtime, _) in files.items():
        if path != cut and path.parent.name != "dev_nl":
            assert path.stat().st_mtime_ns == mtime


def utterances(levels: int, lines: int = 4) -> list[Utterance]:
    return [
        Utterance(f"{s}-{v:02}-{i}", s, f"{v:02}", False, f"{v} {i} {s}", Path("x"), 2.0)
        for v in range(levels)
        for i in range(lines)
        for s in ("small", "big")
    ]


def test_split_has_the_shares_and_depends_on_the_seed_alone() -> None:
    lines = utterances(100)
    for line in lines:
        object.__setattr__(line, "text", f"regel {'abcdefghij'[int(line.level) % 10]}")
    sets = split_levels(lines, seed=3)
    assert sets == split_levels(lines[::-1], seed=3)
    assert sets != split_levels(lines, seed=4)
    assert {name: len(members) for name, members in sets.items()} == {
        "train": 86 * 8,
        "dev": 5 * 8,
        "test": 9 * 8,
    }


def test_split_keeps_repeated_texts_and_rare_characters_out_of_the_test_set() -> None:
    lines = []
    for line in utterances(20):
        level = int(line.level)
        text = f"vis {'abcdefghijklmnopqrst'[level]}" if level < 14 else "steeds hetzelfde"
        rest = "abcdefghijklmnopqrst" if level == 14 else ""
        lines.append(Utterance(**{**vars(line), "text": text + rest}))
    sets = split_levels(lines, seed=0)
    assert repeated_texts(sets["test"], sets["train"]) == 0
    assert repeated_texts(sets["dev"], sets["train"]) == 0
    assert "14" in {u.level for u in sets["train"]}


def test_counts_repeated_texts() -> None:
    lines = utterances(2)
    assert repeated_texts(lines, lines[:3] * 2) == 3


def test_errors_are_one_line(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    game = tmp_path / "game"
    (game / "script/a").mkdir(parents=True)
    (game / "script/a/dialogs_nl.lua").write_text('dialogId("a", "b", "c")\ndialogStr("d"')
    for options, message in (
        (["--lang", "cs"], "fillets-ng-data"),
        (["--lang", "xx"], "unknown --lang 'xx': expected one of nl, cs"),
    ):
        assert run(tree, tmp_path / "out", *options) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert run(game, tmp_path / "out") == 1
    assert "fillets-ng-data-nl" in capsys.readouterr().err
    write_tone(game / "sound/a/nl/a.ogg", 0.1, 300)
    assert run(game, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "script/a/dialogs_nl.lua: line 2: expected strings" in error
    assert error.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert run(tree, tmp_path / "file") == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert not (tmp_path / "out/data").exists()


def test_full_disk_names_the_file_and_leaves_nothing_half_written(
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_some(path: Path, data: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    assert run(tree, tmp_path) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}/wav/" in error
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(UserError, match="2 level"):
        split_levels(utterances(2), seed=0)


def test_text_and_recordings_may_lie_in_two_packages(tree: Path, tmp_path: Path) -> None:
    game = tree / GAME_FOLDER
    for part in ("script", "sound"):
        (tmp_path / part / GAME_FOLDER).mkdir(parents=True)
        (tmp_path / part / GAME_FOLDER / part).symlink_to(game / part)
    roots = find_roots([tmp_path / "script", tmp_path / "sound"], "nl")
    lines = collect_lines(roots, "nl", Counter())
    assert len(lines) == LEVELS * 4 + 3
