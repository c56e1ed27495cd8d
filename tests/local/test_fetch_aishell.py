"""AISHELL-1's archives: download, checks, unpacking, and what an interruption leaves."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import download
import fetch_aishell
import numpy as np
import pack_aishell
import pytest
import soundfile
import unpack_aishell
from aishell_archives import Archive, md5_of, read_checksums, write_checksums
from archive_server import ArchiveServer, serve
from command_line import UserError

LOCAL = Path(__file__).parents[2] / "local"
SPEAKERS = {"S0002": "train", "S0003": "train", "S0724": "dev", "S0764": "test"}
DATA = "data_aishell.tgz"


def wavs_of(corpus: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(corpus)): path.read_bytes() for path in sorted(corpus.rglob("*.wav"))
    }


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What would change if a file was written again."""
    return {
        str(path.relative_to(folder)): (status.st_ino, status.st_mtime_ns, status.st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
        for status in [path.stat()]
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data_aishell with two recordings of each speaker; noise, so that archives stay large."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("corpus") / "data_aishell"
    lines = []
    for speaker, name in SPEAKERS.items():
        folder = root / "wav" / name / speaker
        folder.mkdir(parents=True)
        for number in (121, 122):
            utterance = f"BAC009{speaker}W{number:04d}"
            samples = rng.uniform(-0.5, 0.5, 20_000)
            soundfile.write(folder / f"{utterance}.wav", samples, 16000, subtype="PCM_16")
            lines.append(f"{utterance} 打开 灯\n")
    (root / "transcript").mkdir()
    transcript = root / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def packed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack_aishell.pack(corpus, folder)
    return folder


@pytest.fixture
def server(packed: Path, tmp_path: Path) -> Iterator[ArchiveServer]:
    with serve(Path(shutil.copytree(packed, tmp_path / "served"))) as state:
        yield state


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_PAUSE_S", 0.0)


def fetch(server: ArchiveServer, downloads: Path, *options: str) -> None:
    fetch_aishell.main(
        [
            *("--downloads", str(downloads), "--data_url", server.url),
            *("--checksums", str(server.folder / pack_aishell.CHECKSUMS), *options),
        ]
    )


def test_download_then_nothing_to_do(
    server: ArchiveServer, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = tmp_path / "downloads"
    fetch(server, downloads)
    assert wavs_of(downloads / "data_aishell") == wavs_of(corpus)
    name = "transcript/aishell_transcript_v0.8.txt"
    assert (downloads / "data_aishell" / name).read_bytes() == (corpus / name).read_bytes()
    assert (downloads / "resource_aishell/speaker.info").read_text().split() == [*SPEAKERS]
    assert server.asked == [(f"/{DATA}", None), ("/resource_aishell.tgz", None)]
    left = {path.name for path in downloads.iterdir()}
    assert left == {"data_aishell", "resource_aishell", DATA, "resource_aishell.tgz", ".lock"}
    before = state_of(downloads)
    capsys.readouterr()
    fetch(server, downloads)
    assert state_of(downloads) == before and len(server.asked) == 2
    assert capsys.readouterr().out.count(": already there\n") == 2


def test_archive_removed_once_unpacked(server: ArchiveServer, tmp_path: Path) -> None:
    fetch(server, tmp_path / "downloads", "--remove_archive", "true")
    assert not list((tmp_path / "downloads").glob("*.tgz"))
    fetch(server, tmp_path / "downloads", "--remove_archive", "true")
    assert len(server.asked) == 2


def test_cut_connections_are_gone_on_from(
    server: ArchiveServer, corpus: Path, tmp_path: Path
) -> None:
    server.cuts = [100_000, 0, 50_000]
    fetch(server, tmp_path)
    asked = [wanted for path, wanted in server.asked if path == f"/{DATA}"]
    assert asked == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert wavs_of(tmp_path / "data_aishell") == wavs_of(corpus)


def test_server_without_ranges_sends_all_again(
    server: ArchiveServer, corpus: Path, tmp_path: Path
) -> None:
    server.cuts, server.ranges = [100_000], False
    fetch(server, tmp_path)
    assert wavs_of(tmp_path / "data_aishell") == wavs_of(corpus)


def test_killed_download_is_gone_on_with(
    server: ArchiveServer, corpus: Path, tmp_path: Path
) -> None:
    server.hold_after = 200_000
    command = [
        *(sys.executable, str(LOCAL / "fetch_aishell.py"), "--downloads", str(tmp_path / "down")),
        *("--data_url", server.url, "--checksums", str(server.folder / pack_aishell.CHECKSUMS)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = tmp_path / "down" / f"{DATA}.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    server.hold_after = None
    fetch(server, tmp_path / "down")
    assert server.asked[1] == (f"/{DATA}", f"bytes={kept}-")
    assert wavs_of(tmp_path / "down/data_aishell") == wavs_of(corpus)


def test_passing_errors_of_the_server(server: ArchiveServer, corpus: Path, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    fetch(server, tmp_path)
    assert wavs_of(tmp_path / "data_aishell") == wavs_of(corpus)


@pytest.mark.parametrize(
    ("status", "requests", "said"),
    [(503, 3, "the server answers 503 .*3 times in a row"), (404, 1, "the server answers 404")],
)
def test_lasting_errors_of_the_server(
    server: ArchiveServer, tmp_path: Path, status: int, requests: int, said: str
) -> None:
    server.statuses = [status] * 9
    with pytest.raises(UserError, match=said):
        fetch(server, tmp_path, "--tries", "3")
    assert len(server.asked) == requests
    assert not (tmp_path / "data_aishell").exists()


def test_no_server(tmp_path: Path, packed: Path) -> None:
    with serve(packed) as server:
        pass
    with pytest.raises(UserError, match=r"refused \(1 times.*keeps 0 of \d+ bytes.*--data_url"):
        fetch(server, tmp_path)


def test_server_with_another_file(server: ArchiveServer, tmp_path: Path) -> None:
    with open(server.folder / DATA, "ab") as stream:
        stream.write(b"more")
    size = (server.folder / DATA).stat().st_size
    with pytest.raises(UserError, match=f"a file of {size} bytes, {size - 4} expected"):
        fetch(server, tmp_path)
    assert (tmp_path / f"{DATA}.part").stat().st_size == 0


def test_wrong_checksum_then_a_good_mirror(
    server: ArchiveServer, corpus: Path, tmp_path: Path
) -> None:
    good = (server.folder / DATA).read_bytes()
    (server.folder / DATA).write_bytes(good[:-100] + b"\0" * 100)
    with pytest.raises(UserError, match=rf"{DATA}\.part: md5 \w+, \w+ expected: damaged; removed"):
        fetch(server, tmp_path / "down")
    assert [path.name for path in (tmp_path / "down").iterdir()] == [".lock"]
    (server.folder / DATA).write_bytes(good)
    fetch(server, tmp_path / "down")
    assert wavs_of(tmp_path / "down/data_aishell") == wavs_of(corpus)


def test_damaged_archive_that_lies_there_is_kept(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(b"somebody's own")
    with pytest.raises(UserError, match=rf"{DATA}: 14 bytes, \d+ expected: truncated; remove it"):
        fetch(server, tmp_path)
    assert (tmp_path / DATA).read_bytes() == b"somebody's own" and server.asked == []


def test_no_space(server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = read_checksums(server.folder / pack_aishell.CHECKSUMS)
    needed = sum(a.size + round(1.35 * a.size) for a in archives)

    def disk(free: int) -> None:
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(fetch_aishell.shutil, "disk_usage", lambda path: usage)

    disk(needed - 1)
    with pytest.raises(UserError, match=r"0\.0 GB free, 0\.0 GB needed"):
        fetch(server, tmp_path / "down")
    assert server.asked == []
    # What is there already need not be free once more.
    (tmp_path / "down" / f"{DATA}.part").write_bytes((server.folder / DATA).read_bytes()[:1000])
    unpacked = unpack_aishell.partial_folder(tmp_path / "down/data_aishell") / "transcript/old"
    unpacked.parent.mkdir(parents=True)
    unpacked.write_bytes(bytes(500))
    disk(needed - 1501)
    with pytest.raises(UserError, match="needed for the archives"):
        fetch(server, tmp_path / "down")
    disk(needed - 1500)
    fetch(server, tmp_path / "down")


def test_interrupted_unpacking_goes_on_with_the_next_speaker(
    packed: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "data_aishell"
    rename = os.rename
    left = iter(range(2))

    def interrupted(source: Path, place: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        rename(source, place)

    monkeypatch.setattr(unpack_aishell.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack_aishell.unpack_archive(packed / DATA, target)
    assert not target.exists()
    before = state_of(unpack_aishell.partial_folder(target) / "wav")
    assert len(before) == 4
    monkeypatch.undo()
    unpack_aishell.unpack_archive(packed / DATA, target)
    assert wavs_of(target) == wavs_of(corpus)
    after = state_of(target / "wav")
    assert {name: after[name] for name in before} == before
    assert [path.name for path in tmp_path.iterdir()] == ["data_aishell"]
    assert sorted(path.name for path in target.iterdir()) == ["transcript", "wav"]


@pytest.mark.parametrize("kept", [1000, -150_000, -300, -1])
def test_truncated_archive(packed: Path, tmp_path: Path, kept: int) -> None:
    content = (packed / DATA).read_bytes()
    source = tmp_path / "source"
    source.mkdir()
    (source / DATA).write_bytes(content[:kept])
    with pytest.raises(UserError, match=rf"{DATA}: \d+ bytes, {len(content)} expected: truncated"):
        fetch_aishell.fetch_corpus(
            tmp_path / "down", read_checksums(packed / pack_aishell.CHECKSUMS), source=source
        )
    # Unchecked, it is noticed as well, wherever it ends.
    with pytest.raises(UserError, match=rf"{DATA}: .*truncated or damaged"):
        unpack_aishell.unpack_archive(source / DATA, tmp_path / "data_aishell")
    assert not (tmp_path / "data_aishell").exists()


def write_archive(path: Path, files: dict[str, bytes]) -> tuple[Archive, ...]:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return (Archive(path.name, path.stat().st_size, md5_of(path)),)


SPEAKER = pack_aishell.tar_gz({"train/S0002/a.wav": bytes(9999)})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"data_aishell/wav/S0002.tar.gz": SPEAKER[:-9]}, r"wav/S0002\.tar\.gz: truncated"),
        ({"data_aishell/wav/S0002.tar.gz": b"no archive"}, r"wav/S0002\.tar\.gz: truncated"),
        (
            {"data_aishell/wav/S0002.tar.gz": pack_aishell.tar_gz({"S0002/a.wav": b""})},
            r"holds no <set>/<speaker>/<utterance>\.wav",
        ),
        (
            {"data_aishell/wav/S0002.tar.gz": pack_aishell.tar_gz({"../../../a.wav": b""})},
            r"wav/S0002\.tar\.gz: truncated or damaged \(.*outside",
        ),
        ({"../data_aishell/a": b""}, r"holds \.\./data_aishell/a; everything has to be in"),
        ({"data_aishell/../../a": b""}, "everything has to be in data_aishell/"),
        ({"aishell2/a": b""}, "holds aishell2/a; everything has to be in data_aishell/"),
    ],
)
def test_archives_of_another_form(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    archives = write_archive(tmp_path / DATA, files)
    with pytest.raises(UserError, match=said) as error:
        fetch_aishell.fetch_corpus(tmp_path / "a/b/c/down", archives, source=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a/b/c/down/data_aishell").exists()
    outside = {path.name for path in tmp_path.rglob("*") if "down" not in path.parts}
    assert outside == {DATA, "a", "b", "c"}


def data_aishell(recipe: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """local/data_aishell.sh in a recipe's directory."""
    (recipe / "local").symlink_to(LOCAL) if not (recipe / "local").exists() else None
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "local/data_aishell.sh", *options],
        cwd=recipe,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


def test_stage_from_archives_that_are_only_read(corpus: Path, packed: Path, tmp_path: Path) -> None:
    """A copy with the archives, and one in which only the outer archive is unpacked."""
    checksums = ("--checksums", str(packed / pack_aishell.CHECKSUMS))
    half = tmp_path / "half"
    half.mkdir()
    shutil.unpack_archive(packed / DATA, half)
    assert sorted(p.name for p in (half / "data_aishell/wav").iterdir()) == [
        f"{speaker}.tar.gz" for speaker in SPEAKERS
    ]
    for source in (packed, half):
        recipe = tmp_path / f"recipe_{source.name}"
        recipe.mkdir()
        before = state_of(source)
        done = data_aishell(recipe, "--aishell", str(source), *checksums, "--expect", "wavs=8")
        assert done.returncode == 0, done.stderr
        assert state_of(source) == before
        assert wavs_of(recipe / "downloads/data_aishell") == wavs_of(corpus)
        wavs = (recipe / "data/train/wav.scp").read_text().split()[1::2]
        assert len(wavs) == 4 and all(Path(wav).is_file() for wav in wavs)
        assert "wavs 8 (as expected), train_utterances 4," in done.stdout


def test_stage_names_every_count_that_differs(corpus: Path, tmp_path: Path) -> None:
    """By default it has to be all of AISHELL-1; nothing is written else."""
    done = data_aishell(tmp_path, "--aishell", str(corpus.parent))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for said in (
        *("wavs 8 instead of 141925", "train_utterances 4 instead of 120098"),
        *("dev_utterances 2 instead of 14326", "test_utterances 2 instead of 7176"),
        *("dev_characters", "instead of 205341", "test_characters", "instead of 104765"),
        "tokens 6 instead of 4233",
    ):
        assert said in done.stderr
    assert not (tmp_path / "data").exists()


def test_checksum_file(tmp_path: Path) -> None:
    archives = (Archive("data_aishell.tgz", 5, "0" * 32), Archive("b.tgz", 15582913665, "f" * 32))
    write_checksums(tmp_path / "sums", archives)
    assert read_checksums(tmp_path / "sums") == archives
    (tmp_path / "sums").write_text("0123 5 data_aishell.tgz\n")
    with pytest.raises(UserError, match=r"sums:1: '0123 5 data_aishell\.tgz'; '<md5> <bytes>"):
        read_checksums(tmp_path / "sums")
