#!/usr/bin/env python3
"""Put AISHELL-1 (openslr.org/33, Apache-2.0) into a folder: download, check, unpack.

Leaves `<downloads>/data_aishell` with the recordings of all speakers unpacked, and
`<downloads>/resource_aishell` (the lexicon, which this recipe does not need). What is there already
is not done again. An interrupted call is gone on with by the next one, in the middle of an archive
as well. Nothing is written outside `<downloads>`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from aishell_archives import OPENSLR_33, OPENSLR_URL, Archive, read_checksums, verify
from command_line import UserError, run
from download import download
from jobs import exclusive
from unpack_aishell import UNPACKED_RATIO, partial_folder, unpack_archive, unpack_folder

_NAME = "fetch_aishell.py"


def bytes_below(folder: Path) -> int:
    """Size of all files in a folder, 0 when there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bytes_needed(archive: Archive, downloads: Path, source: Path | None) -> int:
    """How much an archive and what is in it will still add to `downloads`."""
    target = downloads / archive.folder
    if target.exists():
        return 0
    needed = round(archive.size * UNPACKED_RATIO) - bytes_below(partial_folder(target))
    if source is None:
        here = [downloads / archive.name, part_of(downloads / archive.name)]
        needed += archive.size - sum(path.stat().st_size for path in here if path.exists())
    return needed


def part_of(archive: Path) -> Path:
    """The file that an archive is downloaded into."""
    return archive.with_name(f"{archive.name}.part")


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the archives and"
            " their contents; free space, or give another place with --downloads"
        )


def fetch(archive: Archive, downloads: Path, data_url: str, tries: int) -> Path:
    """Return the archive in `downloads`, checked; download it unless it is there.

    Raises:
        UserError: it cannot be had, or is not what it has to be.
    """
    path = downloads / archive.name
    if path.exists():
        try:
            verify(path, archive)
        except UserError as error:
            raise UserError(f"{error}; remove it to have it downloaded again") from None
        return path
    part = part_of(path)
    download(f"{data_url.rstrip('/')}/{archive.name}", part, archive.size, tries=tries)
    try:
        verify(part, archive)
    except UserError as error:
        # A byte in the middle is wrong, and nobody knows which: going on from this file is no use.
        part.unlink()
        raise UserError(
            f"{error}; removed, run the same command again to download it anew, or give a mirror"
            " with --data_url"
        ) from None
    part.rename(path)
    return path


def find_in(source: Path, archive: Archive) -> Path:
    """Return the archive in a folder, or what somebody has unpacked it to there.

    Raises:
        UserError: there is neither.
    """
    for path in (source / archive.name, source / archive.folder):
        if path.exists():
            return path
    raise UserError(f"{source}: holds neither {archive.name} nor {archive.folder}/")


def fetch_corpus(
    downloads: Path,
    archives: tuple[Archive, ...],
    *,
    source: Path | None = None,
    data_url: str = OPENSLR_URL,
    tries: int = 10,
    remove_archive: bool = False,
) -> None:
    """Make the folder of every archive in `downloads`, one after the other.

    Args:
        downloads: where archives and folders go.
        archives: what the corpus consists of, the recordings first.
        source: a folder with the first archive, or with what it unpacks to; it is only read, and
            nothing is downloaded then.
        data_url: address of the folder that the archives are downloaded from.
        tries: see `download`.
        remove_archive: delete a downloaded archive once it is unpacked.

    Raises:
        UserError: see the functions above.
        OSError: `downloads` cannot be written.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    with exclusive(downloads):
        if source is not None:
            archives = archives[:1]
        require_space(downloads, sum(bytes_needed(a, downloads, source) for a in archives))
        for archive in archives:
            target = downloads / archive.folder
            if target.exists():
                print(f"{_NAME}: {target}: already there")
                continue
            if source is None:
                path = fetch(archive, downloads, data_url, tries)
            else:
                path = find_in(source, archive)
                if path.is_file():
                    verify(path, archive)
            unpack = unpack_folder if path.is_dir() else unpack_archive
            unpack(path, target)
            print(f"{_NAME}: {target}: unpacked from {path}")
            if remove_archive and source is None:
                path.unlink()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--downloads", type=Path, default=Path("downloads"))
    parser.add_argument(
        "--source",
        type=Path,
        help="a folder with data_aishell.tgz, or with data_aishell/ whose speakers' archives are"
        " packed; it is only read, and nothing is downloaded",
    )
    parser.add_argument(
        "--data_url",
        default=OPENSLR_URL,
        help="where to download from (%(default)s); mirrors: https://openslr.elda.org/resources/33,"
        " https://openslr.trmal.net/resources/33, https://openslr.magicdatatech.com/resources/33",
    )
    parser.add_argument(
        "--checksums",
        type=Path,
        help="lines of '<md5> <bytes> <name>.tgz' in place of the archives of openslr.org/33",
    )
    parser.add_argument(
        "--tries", type=int, default=10, help="attempts that may fail in a row (%(default)s)"
    )
    parser.add_argument(
        "--remove_archive",
        choices=["true", "false"],
        default="false",
        help="delete what was downloaded once it is unpacked (%(default)s)",
    )
    options = parser.parse_args(arguments)
    fetch_corpus(
        options.downloads,
        OPENSLR_33 if options.checksums is None else read_checksums(options.checksums),
        source=options.source,
        data_url=options.data_url,
        tries=max(1, options.tries),
        remove_archive=options.remove_archive == "true",
    )


if __name__ == "__main__":
    run(main)
