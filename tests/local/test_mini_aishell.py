"""The miniature corpus, built from tones in the place of the recordings."""

import os
from collections import defaultdict
from pathlib import Path

import mini_aishell
import mini_sentences
import mini_speech
import numpy as np
import pytest
import soundfile
from command_line import UserError

SIZES = {"train": 60, "dev": 6, "test": 8}


def syllables_of_grammar() -> set[str]:
    sets = mini_sentences.draw_sentences(600, 2, 2, seed=1)
    return {s for words in sets["train"] for s in mini_sentences.syllables(words)}


@pytest.fixture(scope="module")
def gcin_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with all syllables as tones of 120 ms; no neutral tone but ㄉㄜ1."""
    root = tmp_path_factory.mktemp("gcin-voice")
    time = np.arange(5292) / mini_speech.RECORDING_RATE
    for number, syllable in enumerate(sorted(syllables_of_grammar())):
        if syllable.endswith("1") and syllable != "ㄉㄜ1":
            syllable = syllable[:-1]
        folder = root / "usr/share/gcin-voice/ogg" / syllable
        folder.mkdir(parents=True, exist_ok=True)
        for voice in mini_speech.VOICES:
            tone = 0.3 * np.sin(2 * np.pi * (150 + 10 * number + int(voice)) * time) + 0.03
            soundfile.write(folder / f"{voice}.ogg", tone, mini_speech.RECORDING_RATE)
    return root


def files_of(corpus: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for path in sorted(corpus.rglob("*"))
        if path.suffix in {".wav", ".txt"}
    }


@pytest.fixture(scope="module")
def corpus(gcin_voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    assert mini_aishell.build_corpus(gcin_voice, out, SIZES, seed=3)
    return out / "data_aishell"


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        *((0, "零"), (10, "十"), (12, "十二"), (20, "二十"), (99, "九十九")),
        *((100, "一百"), (105, "一百零五"), (110, "一百一十"), (999, "九百九十九")),
    ],
)
def test_chinese_number(number: int, spoken: str) -> None:
    assert mini_sentences.chinese_number(number) == spoken


def test_readings_of_characters_with_several() -> None:
    def read(sentence: str) -> list[str]:
        return mini_sentences.syllables(sentence.split())

    assert read("音量 调高 一点") == ["ㄧㄣ", "ㄌㄧㄤ4", "ㄊㄧㄠ2", "ㄍㄠ", "ㄧ", "ㄉㄧㄢ3"]
    assert read("空调 调到 二十 度")[:4] == ["ㄎㄨㄥ", "ㄊㄧㄠ2", "ㄊㄧㄠ2", "ㄉㄠ4"]
    assert read("一百一十") == ["ㄧ", "ㄅㄞ3", "ㄧ", "ㄕ2"]
    assert read("的 大门 关 了 吗") == ["ㄉㄜ1", "ㄉㄚ4", "ㄇㄣ2", "ㄍㄨㄢ", "ㄌㄜ1", "ㄇㄚ1"]
    assert read("十 分钟 三 号 吃饭") == [
        *("ㄕ2", "ㄈㄣ", "ㄓㄨㄥ", "ㄙㄢ", "ㄏㄠ4", "ㄔ", "ㄈㄢ4"),
    ]


def test_every_character_has_one_reading() -> None:
    readings: dict[str, set[str]] = defaultdict(set)
    for words in mini_sentences.draw_sentences(640, 2, 2, seed=0)["train"]:
        for character, syllable in zip("".join(words), mini_sentences.syllables(words)):
            readings[character].add(syllable)
    assert {c: r for c, r in readings.items() if len(r) > 1} == {}
    assert 60 <= len(readings) <= 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sets_are_disjoint_and_their_characters_known(seed: int) -> None:
    sets = mini_sentences.draw_sentences(640, 100, 150, seed)
    texts = {name: {"".join(words) for words in s} for name, s in sets.items()}
    assert {name: len(t) for name, t in texts.items()} == {"train": 640, "dev": 100, "test": 150}
    assert not texts["train"] & texts["dev"]
    assert not texts["train"] & texts["test"]
    assert not texts["dev"] & texts["test"]
    assert set().union(*texts["dev"], *texts["test"]) <= set().union(*texts["train"])
    assert {len(text) for t in texts.values() for text in t} <= set(range(4, 15))


def test_more_sentences_than_the_grammar_has() -> None:
    with pytest.raises(UserError, match=r"--test_sentences 60: .*only \d+ beside 2 training"):
        mini_sentences.draw_sentences(2, 2, 60, seed=0)


def test_speakers_of_a_set_have_both_voices_and_rates_of_their_own() -> None:
    speakers = {name: mini_aishell.make_speakers(name, 0) for name in SIZES}
    rates = {name: {s.rate_percent for s in group} for name, group in speakers.items()}
    assert len(speakers["train"]) == 20
    for group in speakers.values():
        assert {s.voice for s in group} == set(mini_speech.VOICES)
    assert not rates["train"] & (rates["dev"] | rates["test"])
    assert not rates["dev"] & rates["test"]
    names = [s.name for group in speakers.values() for s in group]
    assert len(set(names)) == len(names)


def test_layout(corpus: Path) -> None:
    lines = (corpus / mini_aishell.TRANSCRIPT).read_text(encoding="utf-8").splitlines()
    ids = [line.split()[0] for line in lines]
    assert len(ids) == len(set(ids)) == sum(SIZES.values())
    assert any(len(line.split()) > 3 for line in lines)
    for name, size in SIZES.items():
        wavs = list((corpus / "wav" / name).glob("S*/BAC009S*.wav"))
        assert len(wavs) == size
        for wav in wavs:
            assert wav.stem in ids
            assert wav.stem.startswith("BAC009" + wav.parent.name)
            info = soundfile.info(wav)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    readme = (corpus / "README.txt").read_text(encoding="utf-8")
    assert all(licence in readme for licence in ("GPL-3 or LGPL-3", "CC-BY-3.0", "羅竺"))


def test_audio_has_no_offset_and_does_not_clip(corpus: Path) -> None:
    for wav in (corpus / "wav").rglob("*.wav"):
        samples, _ = soundfile.read(wav)
        assert abs(samples.mean()) < 1e-3
        assert 0.02 < np.abs(samples).max() < 0.96


def test_length_of_an_utterance_follows_the_rate(gcin_voice: Path) -> None:
    synthesizer = mini_speech.Synthesizer(mini_speech.find_recordings(gcin_voice))
    lengths = []
    for rate in (80, 100):
        speaker = mini_speech.Speaker("S0002", "3", rate, -20.0)
        # One seed, so one silence at the edges: the difference is that of two syllables, which
        # overlap by the same time at any rate.
        lengths.append(len(synthesizer.say(["ㄉㄜ1", "ㄉㄜ1"], speaker, (0,))))
    assert lengths[0] - lengths[1] == pytest.approx(2 * 0.12 * (1 / 0.8 - 1) * 16000, rel=0.02)


def test_same_seed_same_corpus_other_seed_another(
    gcin_voice: Path, corpus: Path, tmp_path: Path
) -> None:
    mini_aishell.build_corpus(gcin_voice, tmp_path / "same", SIZES, seed=3)
    mini_aishell.build_corpus(gcin_voice, tmp_path / "other", SIZES, seed=4)
    assert files_of(tmp_path / "same" / "data_aishell") == files_of(corpus)
    assert files_of(tmp_path / "other" / "data_aishell") != files_of(corpus)


def test_second_call_does_nothing_and_other_options_build_anew(
    gcin_voice: Path, tmp_path: Path
) -> None:
    small = {"train": 40, "dev": 2, "test": 2}
    assert mini_aishell.build_corpus(gcin_voice, tmp_path, small, seed=0)
    transcript = tmp_path / "data_aishell" / mini_aishell.TRANSCRIPT
    before = transcript.stat().st_mtime_ns
    assert not mini_aishell.build_corpus(gcin_voice, tmp_path, small, seed=0)
    assert transcript.stat().st_mtime_ns == before
    assert mini_aishell.build_corpus(gcin_voice, tmp_path, {**small, "test": 3}, seed=0)
    assert len(transcript.read_text(encoding="utf-8").splitlines()) == 45
    assert [path.name for path in tmp_path.iterdir()] == ["data_aishell"]


def test_failed_build_leaves_the_corpus_that_was_there(
    gcin_voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"train": 40, "dev": 2, "test": 2}
    mini_aishell.build_corpus(gcin_voice, tmp_path, small, seed=0)
    before = files_of(tmp_path / "data_aishell")
    write = Path.write_bytes
    left = iter(range(10))

    def disk_full(path: Path, content: bytes) -> int:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        mini_aishell.build_corpus(gcin_voice, tmp_path, small, seed=1)
    assert files_of(tmp_path / "data_aishell") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data_aishell"]


def test_neutral_tone_without_recording_falls_back(gcin_voice: Path) -> None:
    recordings = mini_speech.find_recordings(gcin_voice)
    assert mini_speech.recorded_syllable(recordings, "ㄉㄜ1") == "ㄉㄜ1"
    assert mini_speech.recorded_syllable(recordings, "ㄇㄚ1") == "ㄇㄚ"
    with pytest.raises(UserError, match=r"ㄒㄧㄥ2/3\.ogg: no such recording"):
        mini_speech.recorded_syllable(recordings, "ㄒㄧㄥ2")


@pytest.mark.parametrize("inner", ["", "usr/share/gcin-voice", "usr/share/gcin-voice/ogg"])
def test_recordings_are_found_at_any_level(gcin_voice: Path, inner: str) -> None:
    expected = gcin_voice / "usr/share/gcin-voice/ogg"
    assert mini_speech.find_recordings(gcin_voice / inner).samefile(expected)


def test_missing_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings of gcin-voice"):
        mini_aishell.build_corpus(tmp_path / "none", tmp_path / "out", SIZES, seed=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (None, 0, "unreadable recording"),
        (np.full(4410, 0.005) * np.tile([1, -1], 2205), 44100, "silent recording"),
        (np.zeros(100), 44100, "empty recording"),
        (np.zeros(4410), 16000, "44100 Hz"),
        (np.zeros((4410, 2)), 44100, "one channel"),
    ],
)
def test_bad_recording(tmp_path: Path, samples: np.ndarray | None, rate: int, message: str) -> None:
    path = tmp_path / "3.wav"
    if samples is None:
        path.write_bytes(b"no audio")
    else:
        soundfile.write(path, samples, rate)
    with pytest.raises(UserError, match=rf"3\.wav: .*{message}"):
        mini_speech.read_recording(path)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--dev_sentences=1", "at least 2 are needed"), ("--seed=-1", "0 or more")],
)
def test_bad_options(gcin_voice: Path, tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mini_aishell.main(["--gcin_voice", str(gcin_voice), "--out", str(tmp_path), option])
    assert os.listdir(tmp_path) == []
