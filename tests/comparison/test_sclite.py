"""sclite's report: the summary line, and the errors of each utterance."""

import os
from pathlib import Path

import pytest

from espnet_moe_share.comparison.sclite import (
    Errors,
    Summary,
    read_errors,
    read_summary,
    result_files,
    total,
)
from espnet_moe_share.errors import ConfigurationError

RESULT = """
      |   SPKR       | # Snt  # Wrd  |  Corr    Sub    Del    Ins    Err  S.Err |
      |--------------+---------------+----------------------------------------|
      |   s1         |    2      6   |  66.7   16.7   16.7    0.0   33.3  100.0 |
      |=======================================================================|
      |   Sum/Avg    |    2      6   |  66.7   16.7   16.7   16.7   50.0  100.0 |
      |=======================================================================|
      |    Mean      |  1.5    3.5   |  33.3    8.3   58.3    0.0   66.7  100.0 |

      |   Sum        |    2      6   |     4      1      1      1      3      2 |

id: (s1-u1)
Scores: (#C #S #D #I) 3 1 0 0
REF:  a b c d

id: (s1-u2)
Scores: (#C #S #D #I) 1 0 1 1
REF:  a *** b
"""


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "result.txt").write_text(RESULT)
    return tmp_path / "result.txt"


def test_summary(result: Path) -> None:
    summary = read_summary(result)
    assert summary == Summary(2, 6, ("66.7", "16.7", "16.7", "16.7", "50.0", "100.0"))
    assert summary.error == "50.0"


def test_errors_of_each_utterance(result: Path) -> None:
    errors = read_errors(result)
    assert errors == {"s1-u1": Errors(3, 1, 0, 0), "s1-u2": Errors(1, 0, 1, 1)}
    assert [(each.tokens, each.errors) for each in errors.values()] == [(4, 1), (2, 2)]
    assert total(errors) == Errors(4, 1, 1, 1)
    assert total(errors).rate == 50


def test_reports_that_do_not_say_it(result: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read_summary(tmp_path / "none.txt")
    whole = result.read_text()
    result.write_text("nothing")
    with pytest.raises(ConfigurationError, match="no summary of sclite"):
        read_summary(result)
    result.write_text(whole.partition("id: (s1-u2)")[0])
    with pytest.raises(
        ConfigurationError, match=r"of 1 utterances with 4 tokens, but .* of 2 with"
    ):
        read_errors(result)
    result.write_text(whole.replace("s1-u2", "s1-u1"))
    with pytest.raises(ConfigurationError, match="s1-u1 occurs twice"):
        read_errors(result)


def test_results_of_an_earlier_model_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text("")
    for dataset, age in (("org/dev", 0), ("test", 0), ("older", 100)):
        result = tmp_path / "decode" / dataset / "score_cer" / "result.txt"
        result.parent.mkdir(parents=True)
        result.write_text(RESULT)
        time = (tmp_path / "model.pth").stat().st_mtime_ns - age * 10**9
        os.utime(result, ns=(time, time))
    assert list(result_files(tmp_path, "model.pth", "cer")) == ["decode/org/dev", "decode/test"]
