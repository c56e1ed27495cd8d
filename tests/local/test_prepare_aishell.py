"""AISHELL's layout to data directories."""

from pathlib import Path

import corpus_counts
import numpy as np
import prepare_aishell
import pytest
import soundfile
from command_line import UserError

UTTERANCES = {
    "train": ["S0003/BAC009S0003W0121", "S0002/BAC009S0002W0123", "S0002/BAC009S0002W0122"],
    "dev": ["S0724/BAC009S0724W0121"],
    "test": ["S0764/BAC009S0764W0121"],
}


def write_wav(path: Path, rate: int = 16000, samples: int = 1600, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((samples, channels)), rate, subtype="PCM_16")


@pytest.fixture
def aishell(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    transcript = root / "data_aishell" / prepare_aishell.TRANSCRIPT
    transcript.parent.mkdir(parents=True)
    lines = []
    for name, utterances in UTTERANCES.items():
        for utterance in utterances:
            write_wav(root / f"data_aishell/wav/{name}/{utterance}.wav")
            lines.append(f"{Path(utterance).name} 打开 客厅 的  灯 \n")
    transcript.write_text("".join(lines), encoding="utf-8")
    return root


def prepare(aishell: Path) -> Path:
    data = aishell.parent / "data"
    prepare_aishell.main(["--aishell", str(aishell), "--data_dir", str(data)])
    return data


def test_data_directories(aishell: Path) -> None:
    data = prepare(aishell)
    wavs = aishell / "data_aishell/wav/train"
    assert sorted(path.name for path in data.iterdir()) == ["dev", "test", "train"]
    assert (data / "train/wav.scp").read_text(encoding="utf-8").splitlines() == [
        f"BAC009S0002W0122 {wavs}/S0002/BAC009S0002W0122.wav",
        f"BAC009S0002W0123 {wavs}/S0002/BAC009S0002W0123.wav",
        f"BAC009S0003W0121 {wavs}/S0003/BAC009S0003W0121.wav",
    ]
    assert (data / "train/text").read_text(encoding="utf-8").splitlines() == [
        "BAC009S0002W0122 打开客厅的灯",
        "BAC009S0002W0123 打开客厅的灯",
        "BAC009S0003W0121 打开客厅的灯",
    ]
    assert (data / "train/utt2spk").read_text(encoding="utf-8").splitlines() == [
        "BAC009S0002W0122 S0002",
        "BAC009S0002W0123 S0002",
        "BAC009S0003W0121 S0003",
    ]
    assert (data / "train/spk2utt").read_text(encoding="utf-8").splitlines() == [
        "S0002 BAC009S0002W0122 BAC009S0002W0123",
        "S0003 BAC009S0003W0121",
    ]


def test_relative_folder_gives_absolute_paths(
    aishell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(aishell.parent)
    prepare_aishell.main(["--aishell", "corpus", "--set_names", "a_train", "a_dev", "a_test"])
    path = (aishell.parent / "data/a_dev/wav.scp").read_text(encoding="utf-8").split()[1]
    assert path == str(aishell / "data_aishell/wav/dev/S0724/BAC009S0724W0121.wav")


def test_what_does_not_match_is_left_out_and_counted(
    aishell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(aishell / "data_aishell/wav/train/S0002/BAC009S0002W0999.wav")
    with (aishell / "data_aishell" / prepare_aishell.TRANSCRIPT).open("a") as transcript:
        transcript.write("BAC009S0009W0001 灯\nBAC009S0009W0002 灯\n")
    data = prepare(aishell)
    output = capsys.readouterr()
    assert "train: 3 utterances, 2 speakers" in output.out
    assert "1 recordings without transcript left out" in output.out
    assert "2 transcripts have no recording" in output.err
    assert "W0999" not in (data / "train/text").read_text(encoding="utf-8")


def test_recording_shorter_than_its_header_says(
    aishell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wav = aishell / "data_aishell/wav/dev/S0724/BAC009S0724W0121.wav"
    wav.write_bytes(wav.read_bytes()[:-1000])
    data = prepare(aishell)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"prepare_aishell.py: warning: 1 recordings are shorter than their headers say, first {wav}"
    )
    assert (data / "dev/wav.scp").is_file()
    # A chunk after the samples is nothing unusual.
    write_wav(wav)
    wav.write_bytes(wav.read_bytes() + b"LIST\4\0\0\0INFO")
    prepare(aishell)
    assert "warning" not in capsys.readouterr().err


COUNTS = {
    "wavs": 6,
    **{"train_utterances": 3, "dev_utterances": 1, "test_utterances": 1},
    **{"train_characters": 18, "dev_characters": 6, "test_characters": 6},
    "tokens": 6 + 3,
}


def test_counts_that_are_expected(aishell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wav(aishell / "data_aishell/wav/train/S0002/BAC009S0002W0999.wav")
    arguments = ["--aishell", str(aishell), "--data_dir", str(aishell / "data"), "--expect"]
    corpus_counts.write_expectation(aishell / "counts", COUNTS)
    prepare_aishell.main([*arguments, str(aishell / "counts")])
    found = ", ".join(f"{name} {number} (as expected)" for name, number in COUNTS.items())
    assert found in capsys.readouterr().out
    (aishell / "data/dev/text").unlink()
    for name, number in COUNTS.items():
        wrong = f"wavs=6,{name}={number + 1}"
        with pytest.raises(
            UserError, match=f"data_aishell: {name} {number} instead of {number + 1};"
        ):
            prepare_aishell.main([*arguments, wrong])
    assert not (aishell / "data/dev/text").exists()


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("complete", r"--expect complete: full, none, name=number,... or a file is needed"),
        (
            "wavs=6,speakers=3",
            r"'speakers=3' in wavs=6,speakers=3: .* of the names wavs, train_utt",
        ),
        ("wavs=six", "'wavs=six' in"),
        ("wavs=6,", None),
    ],
)
def test_forms_of_expectations(expect: str, message: str | None) -> None:
    if message is None:
        assert corpus_counts.read_expectation(expect) == {"wavs": 6}
    else:
        with pytest.raises(UserError, match=message):
            corpus_counts.read_expectation(expect)


def test_counts_of_aishell_1() -> None:
    """120,098 + 14,326 + 7,176 utterances; of the 141,925 recordings 325 have no transcript."""
    full = corpus_counts.read_expectation("full")
    utterances = sum(full[f"{name}_utterances"] for name in prepare_aishell.SETS)
    assert full["wavs"] - utterances == 325
    assert corpus_counts.read_expectation("none") == {}


def break_transcript(text: str):
    def change(aishell: Path) -> None:
        with (aishell / "data_aishell" / prepare_aishell.TRANSCRIPT).open("a") as transcript:
            transcript.write(text)

    return change


def break_wav(name: str, **options: int):
    return lambda aishell: write_wav(aishell / "data_aishell/wav" / name, **options)


def unreadable(aishell: Path) -> None:
    (aishell / "data_aishell/wav/dev/S0724/BAC009S0724W0121.wav").write_bytes(b"")


def packed(aishell: Path) -> None:
    folder = aishell / "data_aishell/wav/test"
    folder.rename(aishell / "away")
    folder.mkdir()
    (folder / "S0764.tar.gz").touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_transcript("BAC009S0002W0122 灯\n"), "BAC009S0002W0122 occurs a second time"),
        (break_transcript("BAC009S0002W0777\n"), "BAC009S0002W0777 has no text"),
        (
            break_wav("test/S0002/BAC009S0002W0122.wav"),
            r"wav/test/S0002/BAC009S0002W0122.wav: utterance id also of .*wav/train/",
        ),
        (break_wav("dev/S0724/BAC009S0724W0121.wav", rate=8000), r"W0121\.wav: 8000 Hz, 16000"),
        (break_wav("dev/S0724/BAC009S0724W0121.wav", samples=0), r"W0121\.wav: empty audio"),
        (break_wav("dev/S0724/BAC009S0724W0121.wav", channels=2), r"W0121\.wav: 2 channels"),
        (unreadable, r"S0724W0121\.wav: unreadable audio"),
        (packed, r"wav/test: no <speaker>/\*\.wav but \*\.tar\.gz: unpack"),
        (
            lambda aishell: (aishell / "data_aishell" / prepare_aishell.TRANSCRIPT).unlink(),
            r"aishell_transcript_v0\.8\.txt: no such file",
        ),
    ],
)
def test_errors_write_nothing(aishell: Path, change, message: str) -> None:
    change(aishell)
    with pytest.raises(UserError, match=message) as error:
        prepare(aishell)
    assert "\n" not in str(error.value)
    assert not (aishell.parent / "data").exists()


def test_order_of_utterances_that_separates_speakers(aishell: Path) -> None:
    wavs = [Path("S0003/A.wav"), Path("S0002/B.wav")]
    with pytest.raises(UserError, match=r"S0002/B\.wav: .*speaker S0002 comes after S0003"):
        prepare_aishell.match_transcripts(wavs, {"A": "灯", "B": "灯"})


def test_unwritable_data_directory(aishell: Path) -> None:
    (aishell.parent / "data").write_text("a file")
    with pytest.raises(OSError, match="data"):
        prepare(aishell)
