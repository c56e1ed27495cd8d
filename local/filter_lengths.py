"""Stage 4: leave out utterances that are too short or too long to train on, and say how many."""

import argparse
from pathlib import Path

from command_line import UserError, parse_rate, run, written_whole
from data_directory import (
    fingerprint,
    is_current,
    read_columns,
    read_data_directory,
    whole_directory,
    write_columns,
    write_data_directory,
)


def filter_data_directory(
    source: Path, target: Path, rate: int, shortest: float, longest: float
) -> None:
    """Write the utterances of `source` between `shortest` and `longest` seconds, both excluded.

    Raises:
        UserError: none is left.
    """
    made_from: dict[str, object] = {
        "fs": rate,
        "seconds": [shortest, longest],
        "data": fingerprint(source),
    }
    if is_current(target, made_from):
        print(f"{target}: up to date")
        return
    data = read_data_directory(source)
    samples = {utt: int(n) for utt, n in read_columns(source / "utt2num_samples").items()}
    minimum, maximum = int(shortest * rate), int(longest * rate)
    kept = {utt for utt in data.wavs if minimum < samples[utt] < maximum}
    too_short = sum(samples[utt] <= minimum for utt in data.wavs)
    too_long = sum(samples[utt] >= maximum for utt in data.wavs)
    if not kept:
        raise UserError(
            f"{source}: of {len(data.wavs)} utterances none is longer than {shortest} s and "
            f"shorter than {longest} s; change --min_wav_duration or --max_wav_duration"
        )
    with whole_directory(target, made_from) as temporary:
        write_data_directory(temporary, data.subset(kept))
        write_columns(temporary / "utt2num_samples", {utt: str(samples[utt]) for utt in kept})
        for name in ("feats_type", "audio_format"):
            with written_whole(temporary / name) as stream:
                stream.write((source / name).read_text(encoding="utf-8"))
    print(
        f"{target}: {len(kept)} of {len(data.wavs)} utterances kept; dropped {too_short} of at "
        f"most {shortest} s and {too_long} of at least {longest} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="dump/raw/org/<set>")
    parser.add_argument("target", type=Path, help="dump/raw/<set>")
    parser.add_argument("--fs", default="16k", help="sampling rate")
    parser.add_argument("--min_wav_duration", type=float, default=0.1, help="seconds")
    parser.add_argument("--max_wav_duration", type=float, default=20.0, help="seconds")
    args = parser.parse_args()
    filter_data_directory(
        args.source,
        args.target,
        parse_rate(args.fs),
        args.min_wav_duration,
        args.max_wav_duration,
    )


if __name__ == "__main__":
    run(main)
