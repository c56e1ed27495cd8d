"""The archives of AISHELL-1 as openslr.org/33 has them: sizes, checksums, how they are checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from command_line import UserError, written_whole
from progress import progress_bar

OPENSLR_URL = "https://www.openslr.org/resources/33"


@dataclass(frozen=True)
class Archive:
    """One file of a download.

    Attributes:
        name: of the file; without its ending, the folder that it holds.
        size: in bytes.
        md5: of its contents, in hexadecimal.
    """

    name: str
    size: int
    md5: str

    @property
    def folder(self) -> str:
        """Name of the only folder at the archive's top."""
        return self.name.removesuffix(".tgz")


# Sizes: Kaldi's egs/aishell/s5/local/download_and_untar.sh and the length that openslr.org's server
# answers. Checksums: PaddleSpeech's dataset/aishell/aishell.py and, computed from what they had
# downloaded, projects that do not build on it.
OPENSLR_33 = (
    Archive("data_aishell.tgz", 15_582_913_665, "2f494334227864a8a8fec932999db9d8"),
    Archive("resource_aishell.tgz", 1_246_920, "957d480a0fcac85fc18e550756f624e5"),
)


def read_checksums(path: Path) -> tuple[Archive, ...]:
    """Read lines `<md5> <bytes> <name>.tgz`, one for each archive.

    Raises:
        UserError: the file is missing, has no line, or a line has another form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; lines of '<md5> <bytes> <name>.tgz' are needed")
    archives = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{32})\s+(\d+)\s+([\w.-]+\.tgz)", line.strip())
        if match is None:
            raise UserError(f"{path}:{number}: '{line}'; '<md5> <bytes> <name>.tgz' is needed")
        archives.append(Archive(match[3], int(match[2]), match[1]))
    if not archives:
        raise UserError(f"{path}: names no archive")
    return tuple(archives)


def write_checksums(path: Path, archives: Iterable[Archive]) -> None:
    """Write what `read_checksums` reads."""
    with written_whole(path) as stream:
        stream.writelines(f"{a.md5} {a.size} {a.name}\n" for a in archives)


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with (
        open(path, "rb") as stream,
        progress_bar(
            total=path.stat().st_size, desc=f"md5 of {path.name}", unit="B", unit_scale=True
        ) as bar,
    ):
        while block := stream.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def verify(path: Path, archive: Archive) -> None:
    """Compare a file's size, then its contents, with what they have to be.

    Raises:
        UserError: they differ; says how.
    """
    size = path.stat().st_size
    if size != archive.size:
        state = "truncated" if size < archive.size else "not the archive of openslr.org/33"
        raise UserError(f"{path}: {size} bytes, {archive.size} expected: {state}")
    md5 = md5_of(path)
    if md5 != archive.md5:
        raise UserError(f"{path}: md5 {md5}, {archive.md5} expected: damaged")
