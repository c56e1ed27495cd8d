"""local/join_texts.py: the text of language model and token list."""

from pathlib import Path

import pytest
from driver_data import assert_one_line_error, run_helper


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("u2 one  two\nu1 three\nu3\n")
    Path("text_books").write_text("u1 four\n")


def test_as_asr_sh_joins_them() -> None:
    done = run_helper("join_texts.py", "text", "text_books", "--output", "dump/lm_train.txt")
    assert done.returncode == 0, done.stderr
    assert Path("dump/lm_train.txt").read_text() == "u2 one two\nu1 three\nu1_books four\n"
    before = Path("dump/lm_train.txt").stat().st_mtime_ns
    done = run_helper("join_texts.py", "text", "text_books", "--output", "dump/lm_train.txt")
    assert "up to date" in done.stdout
    assert Path("dump/lm_train.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("text", "other/text"), "other/text: id u1 is in an earlier one of the texts as well"),
        (("text", "nothing"), "nothing: no such file"),
        (("empty",), "empty: no utterance has words"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], said: str) -> None:
    Path("other").mkdir()
    Path("other/text").write_text("u1 four\n")
    Path("empty").write_text("u1\n")
    done = run_helper("join_texts.py", *arguments, "--output", "lm_train.txt")
    assert_one_line_error(done, said)
    assert not Path("lm_train.txt").exists()
