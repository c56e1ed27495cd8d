"""local/score.py: sclite's figures, on exactly the utterances that there are."""

import subprocess
from pathlib import Path

import pytest
from driver_data import LOCAL, assert_one_line_error, run_helper, write_lists

from espnet_moe_share.comparison.sclite import read_summary

REFERENCES = {"s1-a": "THE CAT SAT", "s1-b": "ON A MAT", "s2-c": "YES"}


@pytest.fixture
def sclite() -> str:
    command = ["bash", "-c", f". {LOCAL}/sclite.sh && find_sclite"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, "sclite is needed: apt-get install sctk"
    return found.stdout.strip()


def score(
    tmp_path: Path, sclite: str, hypotheses: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    write_lists(tmp_path / "data", REFERENCES)
    decoded = tmp_path / "decoded"
    decoded.mkdir(exist_ok=True)
    (decoded / "text").write_text("".join(f"{u} {t}\n" for u, t in hypotheses.items()))
    arguments = ("--data", tmp_path / "data", "--decoded", decoded, "--sclite", sclite)
    return run_helper("score.py", *arguments, *options)


def test_counts_and_matching_by_id(tmp_path: Path, sclite: str) -> None:
    # In another order, one word wrong, one missing, an utterance empty.
    done = score(tmp_path, sclite, {"s2-c": "", "s1-b": "ON MAT", "s1-a": "THE CAP SAT"})
    assert done.returncode == 0, done.stderr
    wer = read_summary(tmp_path / "decoded" / "score_wer" / "result.txt")
    assert (wer.sentences, wer.words) == (3, 7)
    assert wer.rates == ("57.1", "14.3", "28.6", "0.0", "42.9", "100.0")
    cer = read_summary(tmp_path / "decoded" / "score_cer" / "result.txt")
    assert (cer.sentences, cer.words) == (3, 11 + 8 + 3)
    lines = (tmp_path / "decoded" / "score_cer" / "ref.trn").read_text().splitlines()
    assert lines[1] == "O N <space> A <space> M A T\t(s1-s1-b)"
    assert not (tmp_path / "decoded" / "score_ter").exists()


def test_missing_and_extra_hypotheses(tmp_path: Path, sclite: str) -> None:
    done = score(tmp_path, sclite, {"s1-a": "THE CAT SAT", "s1-x": "ON"})
    assert_one_line_error(
        done, "2 hypotheses missing, such as s1-b; 1 hypotheses too many, such as s1-x"
    )
    assert not list((tmp_path / "decoded").glob("score_*"))


def test_markup_of_sclite_is_text(tmp_path: Path, sclite: str) -> None:
    # To sclite these are alternatives, one of them right, and a comment.
    hypotheses = {"s1-a": "{ THE / A } CAT SAT", "s1-b": ";; ON A MAT", "s2-c": "YES @"}
    done = score(tmp_path, sclite, hypotheses)
    assert done.returncode == 0, done.stderr
    wer = read_summary(tmp_path / "decoded" / "score_wer" / "result.txt")
    assert (wer.sentences, wer.words) == (3, 7)
    assert wer.rates == ("100.0", "0.0", "0.0", "85.7", "85.7", "100.0")


def test_sclite_missing(tmp_path: Path) -> None:
    done = score(tmp_path, "no-such-sclite", REFERENCES)
    assert_one_line_error(done, "no-such-sclite: No such file")
