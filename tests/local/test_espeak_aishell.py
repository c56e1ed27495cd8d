"""A corpus in AISHELL-1's layout, read by eSpeak NG."""

import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus_counts
import espeak_aishell
import mini_sentences
import numpy as np
import phrase_sentences
import prepare_aishell
import pytest
import soundfile
from command_line import UserError
from espeak_aishell import Size, build_corpus, make_speakers
from espeak_speech import Espeak, Speaker

SENTENCES = {"train": 30, "dev": 3, "test": 4}
SPEAKERS = {"train": 24, "dev": 3, "test": 3}
LOCAL = Path(__file__).parents[2] / "local"


def program() -> str:
    """eSpeak NG, where the recipe looks for it."""
    command = f'. "{LOCAL}/espeak.sh" && find_espeak'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, "no espeak-ng: bash local/setup_env.sh --with_test true gets it"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak(program())


@pytest.fixture(scope="module")
def corpus(espeak: Espeak, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("espeak")
    assert build_corpus(espeak, out, Size(SENTENCES, SPEAKERS, untranscribed=2, seed=3), 2)
    return out / "data_aishell"


def wavs_of(corpus: Path) -> dict[str, bytes]:
    return {str(p.relative_to(corpus)): p.read_bytes() for p in sorted(corpus.rglob("*.wav"))}


def test_layout_of_aishell(corpus: Path) -> None:
    lines = (corpus / prepare_aishell.TRANSCRIPT).read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines) and len(lines) == sum(SENTENCES.values())
    ids = {line.split()[0] for line in lines}
    wavs = sorted((corpus / "wav").glob("*/S*/BAC009S*W*.wav"))
    assert len(wavs) == len(ids) + 2
    without = [wav for wav in wavs if wav.stem not in ids]
    assert len(without) == 2 and {wav.parents[1].name for wav in without} == {"train"}
    for wav in wavs:
        assert wav.stem.startswith(f"BAC009{wav.parent.name}W")
        samples, rate = soundfile.read(wav)
        info = soundfile.info(wav)
        assert (rate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.5 < len(samples) / rate < 8 and 0.02 < np.abs(samples).max() < 0.96
    for name, number in SPEAKERS.items():
        assert len([*(corpus / "wav" / name).iterdir()]) == number


def test_stage_1_finds_the_counts_that_were_written(corpus: Path, tmp_path: Path) -> None:
    counts = corpus / "counts.txt"
    options = ["--aishell", str(corpus.parent), "--data_dir", str(tmp_path), "--expect"]
    prepare_aishell.main([*options, str(counts)])
    assert corpus_counts.read_expectation(str(counts)).keys() == set(corpus_counts.NAMES)
    texts = (tmp_path / "dev/text").read_text(encoding="utf-8").splitlines()
    characters = sum(len(line.split()[1]) for line in texts)
    assert f"dev_characters={characters}\n" in counts.read_text()
    with pytest.raises(UserError, match=f"dev_characters {characters} instead of 7; complete"):
        prepare_aishell.main([*options, "dev_characters=7,wavs=39"])


def test_speakers_are_different_people(espeak: Espeak) -> None:
    sets = make_speakers(espeak.variants, {"train": 340, "dev": 40, "test": 20}, seed=0)
    variants = {name: {s.variant for s in speakers} for name, speakers in sets.items()}
    assert not variants["train"] & (variants["dev"] | variants["test"])
    assert not variants["dev"] & variants["test"]
    assert sum(map(len, variants.values())) == len(espeak.variants) >= 30
    everybody = [s for speakers in sets.values() for s in speakers]
    assert len({s.name for s in everybody}) == 400
    assert len({(s.variant, s.rate, s.pitch) for s in everybody}) == 400


def test_every_variant_is_known_to_the_program(espeak: Espeak) -> None:
    """It takes an unknown one for the plain voice, and says nothing."""

    def say(variant: str) -> bytes:
        return espeak.say(["ma1", "ma2"], Speaker("S0002", variant, 160, 50, -25.0), (0,)).tobytes()

    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(say, [*espeak.variants, "nobody"])]
    assert len(set(said)) == len(espeak.variants) + 1


def fundamental(waveform: np.ndarray) -> float:
    """Hertz in the middle of an utterance, 53 to 160, by autocorrelation."""
    middle = waveform[len(waveform) // 2 - 400 : len(waveform) // 2 + 400]
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return float(16000 / (100 + np.argmax(correlation[100:300])))


def test_tones_rate_and_pitch_are_heard(espeak: Espeak) -> None:
    speaker = Speaker("S0002", "m1", 150, 50, -25.0)
    waveforms = {tone: espeak.say([f"ma{tone}"], speaker, (0,)) for tone in "12345"}
    assert len({waveform.tobytes() for waveform in waveforms.values()}) == 5
    long = ["wo3", "men5", "qu4", "bei3", "jing1"] * 3
    slow = espeak.say(long, speaker, (0,))
    fast = espeak.say(long, Speaker("S0002", "m1", 200, 50, -25.0), (0,))
    assert 0.65 < len(fast) / len(slow) < 0.85
    low, high = (
        fundamental(espeak.say(["a1"], Speaker("S0002", "m1", 150, pitch, -25.0), (0,)))
        for pitch in (30, 70)
    )
    assert 1.3 * low < high < 1.8 * low
    # ü is v in the input: lü and lu are different syllables.
    said = {espeak.say([syllable], speaker, (0,)).tobytes() for syllable in ("lv4", "lu4")}
    assert len(said) == 2


def test_same_seed_same_corpus_in_any_order(espeak: Espeak, corpus: Path, tmp_path: Path) -> None:
    size = Size(SENTENCES, SPEAKERS, untranscribed=2, seed=3)
    assert build_corpus(espeak, tmp_path, size, 1)
    assert wavs_of(tmp_path / "data_aishell") == wavs_of(corpus)
    before = (tmp_path / "data_aishell/counts.txt").stat().st_mtime_ns
    assert not build_corpus(espeak, tmp_path, size, 2)
    assert (tmp_path / "data_aishell/counts.txt").stat().st_mtime_ns == before


def test_pinyin_of_each_character() -> None:
    assert mini_sentences.pinyin(["空调", "调到", "一百", "的", "女儿", "绿", "吗"]) == [
        *("kong1", "tiao2", "tiao2", "dao4", "yi1", "bai3", "de5"),
        *("nv3", "er2", "lv4", "ma5"),
    ]


def test_large_vocabulary() -> None:
    sets = phrase_sentences.draw_sentences(4000, 50, 50, seed=0)
    texts = {name: ["".join(words) for words in sentences] for name, sentences in sets.items()}
    assert len(set().union(*texts.values())) == 4100
    known = set("".join(texts["train"]))
    assert 3800 < len(known) < 4900 and known.issuperset("".join(texts["dev"] + texts["test"]))
    assert 12 < np.mean([len(text) for text in texts["train"]]) < 17
    for words in sets["train"][:500]:
        syllables = mini_sentences.pinyin(words)
        assert len(syllables) == len("".join(words))
        assert all(s[:-1].isascii() and s[:-1].isalpha() and s[-1] in "12345" for s in syllables)


def test_speakers_take_turns(corpus: Path) -> None:
    wavs = Counter(wav.parent.name for wav in (corpus / "wav/train").rglob("*.wav"))
    assert set(wavs.values()) == {1, 2} and sum(wavs.values()) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dev_speakers", "41"], r"--dev_speakers 41: 1 to 40 are possible"),
        (["--train_sentences", "5"], r"--train_sentences 5: at least one for each of the 24"),
        (["--seed", "-1"], "0 or more"),
        (["--espeak_ng", "/nowhere/espeak-ng"], r"espeak-ng: No such file .*'apt-get install esp"),
        (["--espeak_ng", "false"], "false: exit status 1: no message"),
        (["--espeak_ng", "true"], "true: eSpeak NG is needed, not 'true"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        espeak_aishell.main(["--out", str(tmp_path / "out"), "--espeak_ng", program(), *options])
    assert not (tmp_path / "out").exists()


def test_a_failing_program_leaves_the_corpus_that_was_there(
    espeak: Espeak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"train": 1, "dev": 1, "test": 1}
    size = Size({"train": 10, "dev": 1, "test": 1}, few)
    build_corpus(espeak, tmp_path, size, 2)
    before = wavs_of(tmp_path)
    monkeypatch.setattr(espeak, "program", "false")
    with pytest.raises(UserError, match="exit status 1"):
        build_corpus(espeak, tmp_path, Size({"train": 10, "dev": 2, "test": 1}, few), 2)
    assert wavs_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data_aishell"]
