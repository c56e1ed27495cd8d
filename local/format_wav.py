"""Stage 3: check every utterance of a data directory and list it in the dump directory.

Audio stays where it is; nothing is listed before all of it has been found fit. Adds
utt2num_samples, feats_type and audio_format, as ESPnet's format_wav_scp.sh does.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command_line import UserError, parse_rate, run, written_whole
from data_directory import (
    fingerprint,
    is_current,
    read_data_directory,
    whole_directory,
    write_columns,
    write_data_directory,
)


def count_samples(utterance: str, wav: str, rate: int) -> int:
    """Length of a mono file in samples.

    Raises:
        UserError: it is unreadable, empty, not mono, or has another sampling rate.
    """
    import soundfile

    if not Path(wav).is_file():
        raise UserError(f"{utterance}: {wav}: no such file")
    if Path(wav).stat().st_size == 0:
        raise UserError(f"{utterance}: {wav}: an empty file; record it again or leave it out")
    try:
        info = soundfile.info(wav)
        if info.format not in ("WAV", "NIST"):
            # A truncated compressed file has an intact header; only decoding it shows the loss.
            for _ in soundfile.blocks(wav, blocksize=1 << 16):
                pass
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{utterance}: {wav}: not readable as audio: {error.error_string}"
        ) from None
    if info.frames == 0:
        raise UserError(f"{utterance}: {wav}: holds no samples; leave the utterance out")
    if info.channels != 1:
        raise UserError(f"{utterance}: {wav}: {info.channels} channels; one is needed")
    if info.samplerate != rate:
        raise UserError(
            f"{utterance}: {wav}: sampling rate {info.samplerate} Hz; --fs asks for {rate} Hz"
        )
    return int(info.frames)


def format_data_directory(source: Path, target: Path, rate: int, jobs: int) -> None:
    """Check `source` and write it as `target`."""
    from progress import progress_bar

    data = read_data_directory(source)
    made_from: dict[str, object] = {"fs": rate, "data": fingerprint(source)}
    if is_current(target, made_from):
        print(f"{target}: up to date")
        return
    pool = ThreadPoolExecutor(jobs)
    lengths: dict[str, str] = {}
    try:
        counts = pool.map(lambda item: count_samples(item[0], item[1], rate), data.wavs.items())
        bar = progress_bar(counts, total=len(data.wavs), desc=source.name)
        for utt, count in zip(data.wavs, bar, strict=True):
            lengths[utt] = str(count)
    finally:
        pool.shutdown(cancel_futures=True)
    with whole_directory(target, made_from) as temporary:
        write_data_directory(temporary, data)
        write_columns(temporary / "utt2num_samples", lengths)
        audio_format = Path(next(iter(data.wavs.values()))).suffix.lstrip(".") or "wav"
        for name, value in (("feats_type", "raw"), ("audio_format", audio_format)):
            with written_whole(temporary / name) as stream:
                stream.write(f"{value}\n")
    hours = sum(map(int, lengths.values())) / rate / 3600
    print(f"{target}: {len(lengths)} utterances, {hours:.2f} h")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="data/<set>")
    parser.add_argument("target", type=Path, help="dump/raw/<set> or dump/raw/org/<set>")
    parser.add_argument("--fs", default="16k", help="sampling rate that all audio must have")
    parser.add_argument("--nj", type=int, default=4, help="threads")
    args = parser.parse_args()
    format_data_directory(args.source, args.target, parse_rate(args.fs), max(1, args.nj))


if __name__ == "__main__":
    run(main)
