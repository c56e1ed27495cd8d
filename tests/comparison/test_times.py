"""Real-time factor and training time from logs."""

import os
from pathlib import Path

from espnet_moe_share.comparison.times import DecodingTime, decoding_time, training_time

START = "2026-11-21 23:59:{} (asr_inference:571) INFO: speech length: {}\n"
END = "2026-11-{} (batch_beam_search:1259) INFO: best hypo: 二十\n"


def write_log(decoded: Path, number: int, *lines: str) -> None:
    (decoded / "logdir").mkdir(exist_ok=True)
    text = "# command\nspeech length is no message\n" + "".join(lines)
    (decoded / "logdir" / f"asr_inference.{number}.log").write_text(text, encoding="utf-8")


def test_decoding_time_of_all_jobs(tmp_path: Path) -> None:
    assert decoding_time(tmp_path, 16000) is None
    one = START.format("58,000", 16000) + END.format("21 23:59:58,500")
    write_log(tmp_path, 1, one, START.format("59,750", 48000), END.format("22 00:00:00,250"))
    write_log(tmp_path, 2, START.format("10,000", 16000), END.format("21 23:59:12,000"))
    found = decoding_time(tmp_path, 16000)
    assert found == DecodingTime(audio=5.0, wall=3.0)
    assert found.factor == 0.6
    write_log(tmp_path, 2, START.format("10,000", 16000))  # its hypothesis is missing
    assert decoding_time(tmp_path, 16000) is None


def test_batches_do_not_count_their_time_for_each_utterance(tmp_path: Path) -> None:
    lengths = START.format("10,000", 16000) + START.format("10,001", 16000)
    hypotheses = END.format("21 23:59:12,000") + END.format("21 23:59:14,000")
    write_log(tmp_path, 1, lengths, hypotheses)
    assert decoding_time(tmp_path, 16000) == DecodingTime(audio=2.0, wall=4.0)


def epoch(number: int, train: str, valid: str) -> str:
    return (
        f"[host] (trainer:392) INFO: {number}epoch results: [train] iter_time=0.1, train_time=9.9, "
        f"time={train}, total_count=5, [valid] loss=1.0, time={valid}, total_count=1\n"
    )


def test_training_time_with_an_interruption(tmp_path: Path) -> None:
    assert training_time(tmp_path) is None
    before, after = tmp_path / "train.20261121-100000.log", tmp_path / "train.log"
    before.write_text(
        epoch(1, "1 hour, 2 minutes and 3 seconds", "7 seconds") + epoch(2, "1 day", "1 second")
    )
    after.write_text(epoch(2, "20.5 seconds", "1.5 seconds"))
    os.utime(before, (1, 1))
    found = training_time(tmp_path)
    assert found is not None and found.epochs == 2
    assert found.seconds == 3723 + 7 + 22
