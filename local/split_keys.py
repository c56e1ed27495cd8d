"""Divide the utterances of a list among parallel jobs."""

from pathlib import Path

from command_line import written_whole
from data_directory import read_columns


def split_keys(list_file: Path, outputs: list[Path]) -> list[int]:
    """Write equal contiguous parts of `list_file` (`<id> ...` lines) to `outputs`.

    Returns:
        The number of utterances in each part; sizes differ by at most one.
    """
    lines = [f"{key} {value}\n" for key, value in read_columns(list_file).items()]
    counts: list[int] = []
    for index, output in enumerate(outputs):
        first = index * len(lines) // len(outputs)
        last = (index + 1) * len(lines) // len(outputs)
        with written_whole(output) as stream:
            stream.writelines(lines[first:last])
        counts.append(last - first)
    return counts
