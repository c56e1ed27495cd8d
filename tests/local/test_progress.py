"""local/progress.py: what other programs have done, counted in the files that they write."""

from pathlib import Path

from progress import GrowingFiles


def test_each_mark_counts_once_and_only_in_complete_lines(tmp_path: Path) -> None:
    log, late = tmp_path / "log", tmp_path / "late"
    log.write_text("done 1\nother\ndone 2\ndone")
    counted = GrowingFiles([log, late], "done")
    assert counted.added() == 2
    assert counted.added() == 0
    with open(log, "a") as stream:
        stream.write(" 3\n")
    late.write_text("done\n")
    assert counted.added() == 2
