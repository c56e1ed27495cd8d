"""Unpack AISHELL-1: an archive with one archive of recordings for every speaker in it.

The archives of the speakers are read straight out of the outer one, so that they take no space of
their own. A folder appears under its name when complete; until then it is `.<name>.part`, where a
second call leaves out the speakers that an interrupted one has unpacked.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from command_line import UserError
from progress import progress_bar
from tqdm.utils import CallbackIOWrapper

SPEAKER_ARCHIVE = ".tar.gz"
# 178 hours of 16-bit samples at 16 kHz are 20.5 GB, and half a block is lost for each of 141,925
# files, where the archive has 15.58 GB.
UNPACKED_RATIO = 1.35
_READ_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError)

Entry = tuple[PurePosixPath, IO[bytes]]


def partial_folder(target: Path) -> Path:
    """Where `target` is while it is incomplete."""
    return target.with_name(f".{target.name}.part")


def unpack_archive(archive: Path, target: Path) -> None:
    """Make the folder `target` out of an archive that holds a folder of that name.

    Raises:
        UserError: the archive is damaged or of another form.
        OSError: `target` cannot be written.
    """
    try:
        with (
            open(archive, "rb") as stream,
            progress_bar(
                total=archive.stat().st_size, desc=archive.name, unit="B", unit_scale=True
            ) as bar,
            gzip.GzipFile(fileobj=CallbackIOWrapper(bar.update, stream)) as unzipped,
        ):
            unpack(_members(unzipped, target.name), target)
    except _Damaged as error:
        raise UserError(f"{archive}: {error}") from None
    except _READ_ERRORS as error:
        raise UserError(f"{archive}: truncated or damaged ({error})") from None


def unpack_folder(source: Path, target: Path) -> None:
    """Make `target` out of a folder in which the speakers' archives lie still packed.

    Raises:
        UserError: an archive is damaged or of another form.
        OSError: `target` cannot be written.
    """

    def entries() -> Iterator[Entry]:
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for path in progress_bar(files, desc=str(source), unit="file"):
            with open(path, "rb") as stream:
                yield PurePosixPath(path.relative_to(source)), stream

    try:
        unpack(entries(), target)
    except _Damaged as error:
        raise UserError(f"{source}: {error}") from None


def unpack(entries: Iterable[Entry], target: Path) -> None:
    """Write files, and instead of each speaker's archive what is in it, below `target`."""
    partial = partial_folder(target)
    finished = partial / ".finished"
    finished.mkdir(parents=True, exist_ok=True)
    for path, stream in entries:
        if path.name.endswith(SPEAKER_ARCHIVE):
            mark = finished / path.name
            if not mark.exists():
                _unpack_speaker(path, stream, partial)
                mark.touch()
        else:
            _copy(stream, partial / path)
    shutil.rmtree(finished)
    os.rename(partial, target)


class _Damaged(Exception):
    """What is wrong in an archive; its reader adds the name."""


def _members(unzipped: gzip.GzipFile, folder: str) -> Iterator[Entry]:
    """Every file of an unzipped archive, with its path below the archive's only folder."""
    try:
        with tarfile.open(fileobj=unzipped, mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.parts[:1] != (folder,) or ".." in path.parts:
                    raise _Damaged(f"holds {member.name}; everything has to be in {folder}/")
                if member.isdir():
                    continue
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is None:
                    raise _Damaged(f"{member.name} is neither a file nor a folder")
                yield PurePosixPath(*path.parts[1:]), stream
        _read_to_end(unzipped)
    except _READ_ERRORS as error:
        raise _Damaged(f"truncated or damaged ({error})") from None


def _unpack_speaker(path: PurePosixPath, stream: IO[bytes], partial: Path) -> None:
    """Move `<set>/<speaker>` of a speaker's archive beside the archive's own place."""
    staging = partial / ".speaker"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with gzip.GzipFile(fileobj=stream) as unzipped:
            with tarfile.open(fileobj=unzipped, mode="r|") as tar:
                tar.extractall(staging, filter="data")
            _read_to_end(unzipped)
    except _READ_ERRORS as error:
        raise _Damaged(f"{path}: truncated or damaged ({error})") from None
    speakers = [entry for entry in staging.glob("*/*") if entry.is_dir()]
    if not speakers:
        raise _Damaged(f"{path}: holds no <set>/<speaker>/<utterance>.wav")
    for speaker in speakers:
        place = partial / path.parent / speaker.relative_to(staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        # There when the last call was interrupted between this move and its mark.
        shutil.rmtree(place, ignore_errors=True)
        os.rename(speaker, place)
    shutil.rmtree(staging)


def _read_to_end(unzipped: gzip.GzipFile) -> None:
    """Past the last file of a tar, so that gzip sees its checksum, or that it is missing."""
    while unzipped.read(1 << 20):
        pass


def _copy(stream: IO[bytes], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
