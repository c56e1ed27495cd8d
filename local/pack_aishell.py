#!/usr/bin/env python3
"""Pack a corpus in AISHELL-1's layout into archives as openslr.org/33 has them.

`data_aishell.tgz` holds one archive for every speaker (`data_aishell/wav/S0002.tar.gz`, with
`train/S0002/*.wav` in it) and the transcript, `resource_aishell.tgz` a list of the speakers. With
`checksums.txt` beside them they can be served to `local/data_aishell.sh --data_url URL --checksums
FILE`: a rehearsal of the download, or a mirror of a corpus of one's own.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from aishell_archives import Archive, md5_of, write_checksums
from command_line import UserError, run

CHECKSUMS = "checksums.txt"


def pack(corpus: Path, out: Path) -> tuple[Archive, ...]:
    """Write the archives and their checksums.

    Args:
        corpus: holds `wav/<set>/<speaker>/*.wav` and `transcript/*`.
        out: where the archives go.

    Raises:
        UserError: `corpus` is not of that form.
        OSError: `out` cannot be written.
    """
    folders = (path for path in corpus.glob("wav/*/*") if path.is_dir())
    speakers = sorted(folders, key=lambda path: path.name)
    transcripts = sorted(corpus.glob("transcript/*"))
    if not speakers or not transcripts:
        raise UserError(f"{corpus}: wav/<set>/<speaker>/*.wav and transcript/* are needed")
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out / "data_aishell.tgz", "w:gz", compresslevel=1) as data:
        for path in transcripts:
            _add(data, f"data_aishell/transcript/{path.name}", path.read_bytes())
        for speaker in speakers:
            wavs = {
                str(wav.relative_to(corpus / "wav")): wav.read_bytes()
                for wav in sorted(speaker.glob("*.wav"))
            }
            _add(data, f"data_aishell/wav/{speaker.name}.tar.gz", tar_gz(wavs))
    with tarfile.open(out / "resource_aishell.tgz", "w:gz", compresslevel=1) as resource:
        names = "".join(f"{speaker.name}\n" for speaker in speakers)
        _add(resource, "resource_aishell/speaker.info", names.encode())
    archives = tuple(
        Archive(path.name, path.stat().st_size, md5_of(path))
        for path in (out / "data_aishell.tgz", out / "resource_aishell.tgz")
    )
    write_checksums(out / CHECKSUMS, archives)
    return archives


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """An archive of files, given by name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            _add(tar, name, content)
    return packed.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder data_aishell")
    parser.add_argument("--out", type=Path, required=True, help="where the archives go")
    options = parser.parse_args(arguments)
    for archive in pack(options.corpus, options.out):
        print(f"pack_aishell.py: {options.out / archive.name}: {archive.size} bytes")


if __name__ == "__main__":
    run(main)
