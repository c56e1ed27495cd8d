"""local/results_table.py: sclite's summary line becomes ESPnet's row."""

import os
from pathlib import Path

import pytest
from results_table import ResultsError, Summary, markdown_tables, read_summary

RESULT = """
      |   SPKR       | # Snt  # Wrd  |  Corr    Sub    Del    Ins    Err  S.Err |
      |--------------+---------------+----------------------------------------|
      |   s1         |    2      6   |  66.7   16.7   16.7    0.0   33.3  100.0 |
      |=======================================================================|
      |   Sum/Avg    | 7176  104765  |  95.4    4.5    0.1    0.1    4.7   33.9 |
      |=======================================================================|
      |    Mean      |  1.5    3.5   |  33.3    8.3   58.3    0.0   66.7  100.0 |

      |   Sum        | 7176  104765  | 99946   4714    105    105   4924   2433 |
"""


def test_summary(tmp_path: Path) -> None:
    (tmp_path / "result.txt").write_text(RESULT)
    summary = read_summary(tmp_path / "result.txt")
    assert summary == Summary(7176, 104765, ("95.4", "4.5", "0.1", "0.1", "4.7", "33.9"))
    assert summary.error == "4.7"


def test_no_summary(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no summary of sclite"):
        read_summary(tmp_path / "result.txt")


def test_tables_leave_out_results_of_an_earlier_model(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text("")
    for dataset, age in (("org/dev", 0), ("test", 0), ("older", 100)):
        result = tmp_path / "decode" / dataset / "score_cer" / "result.txt"
        result.parent.mkdir(parents=True)
        result.write_text(RESULT)
        time = (tmp_path / "model.pth").stat().st_mtime_ns - age * 10**9
        os.utime(result, ns=(time, time))
    assert markdown_tables({"student": (tmp_path, "model.pth")}) == (
        "### CER\n\n"
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n|---|---|---|---|---|---|---|---|---|\n"
        "|student/decode/org/dev|7176|104765|95.4|4.5|0.1|0.1|4.7|33.9|\n"
        "|student/decode/test|7176|104765|95.4|4.5|0.1|0.1|4.7|33.9|\n\n"
    )
