"""Kaldi-style data directories: read, check, write as a whole, and know when they are current."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from command_line import UserError, require_files, written_whole

STAMP = ".done"  # written last into a directory that a stage makes; holds what it was made from


@dataclass
class DataDirectory:
    """The contents of one data directory, each a mapping from utterance id."""

    wavs: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)

    def subset(self, utterances: set[str]) -> "DataDirectory":
        """The same directory with only the given utterances."""
        return DataDirectory(
            *(
                {utt: value for utt, value in column.items() if utt in utterances}
                for column in (self.wavs, self.texts, self.speakers)
            )
        )


def read_columns(path: Path) -> dict[str, str]:
    """Read `<id> <value>` lines; the value may hold spaces or be empty.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or an id occurs twice.
    """
    columns: dict[str, str] = {}
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            key, _, value = line.strip().partition(" ")
            if key in columns:
                raise UserError(f"{path}:{number}: id {key} occurs a second time")
            columns[key] = value.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    if not columns:
        raise UserError(f"{path}: has no utterances")
    return columns


def write_columns(path: Path, columns: dict[str, str]) -> None:
    """Write `<id> <value>` lines in the C locale's order."""
    with written_whole(path) as stream:
        stream.writelines(f"{key} {columns[key]}\n" for key in sorted(columns))


def read_data_directory(path: Path) -> DataDirectory:
    """Read wav.scp, text and utt2spk.

    Raises:
        UserError: a file is missing, or the three do not hold the same utterances, or an
            utterance has no text or its wav.scp entry is a command.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such data directory; run from --stage 1")
    data = DataDirectory(*(read_columns(path / name) for name in ("wav.scp", "text", "utt2spk")))
    for name, column in (("text", data.texts), ("utt2spk", data.speakers)):
        for utt in data.wavs:
            if not column.get(utt):
                raise UserError(
                    f"{path / name}: utterance {utt} of wav.scp has no {name}; "
                    "add it or leave the utterance out"
                )
        for utt in column:
            if utt not in data.wavs:
                raise UserError(f"{path / name}: utterance {utt} is not in {path / 'wav.scp'}")
    for utt, wav in data.wavs.items():
        if wav.endswith("|"):
            raise UserError(f"{path / 'wav.scp'}: {utt} is a command; an audio file is needed")
    return data


def write_data_directory(path: Path, data: DataDirectory) -> None:
    """Write wav.scp, text, utt2spk and spk2utt into an existing directory."""
    write_columns(path / "wav.scp", data.wavs)
    write_columns(path / "text", data.texts)
    write_columns(path / "utt2spk", data.speakers)
    by_speaker: dict[str, list[str]] = {}
    for utt in sorted(data.speakers):
        by_speaker.setdefault(data.speakers[utt], []).append(utt)
    write_columns(path / "spk2utt", {spk: " ".join(utts) for spk, utts in by_speaker.items()})


def fingerprint(path: Path) -> str:
    """A digest of a data directory that changes when its lists or its audio files change.

    Audio files count with size and modification time: reading a large corpus only to find out
    that nothing is to be done would take as long as doing it.
    """
    digest = hashlib.sha256()
    for name in ("wav.scp", "text", "utt2spk"):
        file = path / name
        require_files([file], "run the stages before this one")
        digest.update(file.read_bytes())
    for wav in read_columns(path / "wav.scp").values():
        try:
            status = os.stat(wav)
        except OSError as error:
            raise UserError(f"{path / 'wav.scp'}: {wav}: {error.strerror}") from None
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_current(path: Path, made_from: dict[str, object]) -> bool:
    """Whether the directory is complete and was made from the same inputs and options."""
    try:
        found = json.loads((path / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == json.loads(json.dumps(made_from))


@contextlib.contextmanager
def whole_directory(path: Path, made_from: dict[str, object]) -> Iterator[Path]:
    """A directory that replaces `path` only when the block has ended without an error.

    Yields a temporary sibling to write into. What earlier, killed runs left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.tmp.*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = path.parent / f".{path.name}.tmp.{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        with written_whole(temporary / STAMP) as stream:
            json.dump(made_from, stream, indent=1)
        if path.exists():
            # Two renames: a directory cannot be renamed over one that is not empty.
            old = path.parent / f".{path.name}.tmp.{os.getpid()}.old"
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
