"""Stage 2: copies of a data directory at other speeds, as `sox speed` makes them.

Tempo and pitch change together. Utterances and speakers of a copy get the prefix `sp<factor>-`,
as Kaldi's perturb_data_dir_speed.sh names them; factor 1.0 keeps the original.
"""

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command_line import UserError, run
from data_directory import (
    DataDirectory,
    fingerprint,
    is_current,
    read_data_directory,
    whole_directory,
    write_data_directory,
)


def perturb(source: str, target: Path, factor: float) -> None:
    """Write `source` played `factor` times as fast, at its own sampling rate, 16-bit.

    soxr is the resampler of sox itself, so this is what sox's `speed` effect does.

    Raises:
        UserError: the audio cannot be read or holds no samples.
    """
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(source, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{source}: not readable as audio: {error.error_string}") from None
    if len(samples) == 0:
        raise UserError(f"{source}: holds no samples")
    faster = soxr.resample(samples, rate * factor, rate, quality="VHQ")
    encoded = io.BytesIO()
    soundfile.write(encoded, faster, rate, format="WAV", subtype="PCM_16")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.write_bytes(encoded.getvalue())
    except OSError as error:
        # libsndfile would only speak of a system error, and a full disk names no file.
        error.filename = str(target)
        raise


def copy_name(factor: str, name: str) -> str:
    """Name of a perturbed utterance or speaker."""
    return name if float(factor) == 1.0 else f"sp{factor}-{name}"


def perturb_data_directory(source: Path, target: Path, factors: list[str], jobs: int) -> None:
    """Make `target` out of all copies of `source`; the audio lies in `target`/audio."""
    from progress import progress_bar

    made_from: dict[str, object] = {"factors": factors, "data": fingerprint(source)}
    if is_current(target, made_from):
        print(f"{target}: up to date")
        return
    data = read_data_directory(source)
    with whole_directory(target, made_from) as temporary:
        combined = DataDirectory()
        tasks: list[tuple[str, Path, float]] = []
        for factor in factors:
            for utt, wav in data.wavs.items():
                name = copy_name(factor, utt)
                path = wav
                if float(factor) != 1.0:
                    audio = Path("audio") / f"sp{factor}" / data.speakers[utt] / f"{utt}.wav"
                    tasks.append((wav, temporary / audio, float(factor)))
                    path = str(target / audio)
                combined.wavs[name] = path
                combined.texts[name] = data.texts[utt]
                combined.speakers[name] = copy_name(factor, data.speakers[utt])
        # Threads are enough: soundfile and soxr release the interpreter lock.
        pool = ThreadPoolExecutor(jobs)
        try:
            results = pool.map(lambda task: perturb(*task), tasks)
            for _ in progress_bar(results, total=len(tasks), desc="speed"):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        write_data_directory(temporary, combined)
    print(f"{target}: {len(combined.wavs)} utterances at speeds {' '.join(factors)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="data/<train>")
    parser.add_argument("target", type=Path, help="data/<train>_sp")
    parser.add_argument("--factors", required=True, help='for example "0.9 1.0 1.1"')
    parser.add_argument("--nj", type=int, default=4, help="threads")
    args = parser.parse_args()
    factors = args.factors.split()
    try:
        usable = all(0.2 <= float(factor) <= 5.0 for factor in factors)
    except ValueError:
        usable = False
    if not usable or len({float(factor) for factor in factors}) != len(factors):
        raise UserError(
            f"--speed_perturb_factors '{args.factors}': different numbers between 0.2 and 5 "
            'are needed, such as "0.9 1.0 1.1"'
        )
    perturb_data_directory(args.source, args.target, factors, max(1, args.nj))


if __name__ == "__main__":
    run(main)
