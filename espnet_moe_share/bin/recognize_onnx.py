"""Recognise speech with an exported model: greedy CTC, without PyTorch and without ESPnet.

    python -m espnet_moe_share.bin.recognize_onnx \
        --model_file exp/asr_student/export/ctc_int8.onnx \
        --wav_scp dump/raw/test/wav.scp --output hyp.txt --ref dump/raw/test/text

This file alone does it on a device, too (``python recognize_onnx.py ...``), with onnxruntime, numpy
and soundfile: it imports nothing else of this package. What to write in a product of one's own is
:class:`Recognizer`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

try:
    import onnxruntime
except ImportError:
    sys.exit("recognize_onnx: error: onnxruntime is not installed; pip install onnxruntime")


class Recognizer:
    """Greedy CTC search over an exported model: waveform in, text out.

    Args:
        model_file: ``*.onnx`` of ``espnet_moe_share.bin.export``, which holds the tokens, too.
        num_threads: CPU threads for one utterance.
    """

    def __init__(self, model_file: Path | str, num_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = num_threads
        self.session = onnxruntime.InferenceSession(
            model_file, options, providers=["CPUExecutionProvider"]
        )
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.tokens: list[str] = json.loads(metadata["token_list"])
        self.separator = " " if metadata["token_type"] == "word" else ""
        self.sampling_rate = int(metadata["sampling_rate"])
        self.min_samples = int(metadata["min_samples"])

    def __call__(self, speech: np.ndarray) -> str:
        """Recognise one utterance.

        Args:
            speech: Samples (samples,), float32 from -1 to 1, at ``sampling_rate``.

        Returns:
            Its text; "" for less than ``min_samples``.
        """
        if len(speech) < self.min_samples:
            return ""
        (log_probs,) = self.session.run(["log_probs"], {"speech": speech[np.newaxis]})
        best = log_probs[0].argmax(axis=-1)
        is_new = np.concatenate([best[:1] >= 0, best[1:] != best[:-1]])
        tokens = [self.tokens[token] for token in best[is_new & (best != 0)]]  # 0 is blank
        # as ESPnet's tokenizers join characters, words and sentencepieces
        text = self.separator.join(tokens).replace("<space>", " ").replace("\u2581", " ")
        return text.strip()


def edit_distance(reference: str, hypothesis: str) -> int:
    """Count the least substitutions, deletions and insertions of characters."""
    row = list(range(len(hypothesis) + 1))
    for number, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], number
        for column, found in enumerate(hypothesis, start=1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (wanted != found)),
            )
    return row[-1]


def read_columns(path: Path) -> dict[str, str]:
    """Read ``<utterance id> <rest>`` lines.

    Raises:
        ValueError: Not UTF-8, or an id twice.
    """
    columns: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
    for line in filter(str.strip, lines):
        name, *rest = line.strip().split(maxsplit=1)
        if name in columns:
            raise ValueError(f"{path}: {name} occurs twice")
        columns[name] = rest[0] if rest else ""
    return columns


def read_speech(path: str, sampling_rate: int) -> np.ndarray:
    """Read one channel of samples (samples,).

    Raises:
        ValueError: Not readable, or of another sampling rate or more channels.
    """
    try:
        speech, rate = soundfile.read(path, dtype="float32")
    except RuntimeError as error:  # soundfile's own class is one
        raise ValueError(f"{path}: unreadable audio ({error})") from None
    if rate != sampling_rate or speech.ndim > 1:
        channels = speech.shape[1] if speech.ndim > 1 else 1
        raise ValueError(
            f"{path}: {rate} Hz and {channels} channels; "
            f"the model was trained with {sampling_rate} Hz and needs one"
        )
    return speech


def peak_memory() -> float:
    """Return the most memory that the process has held so far, in MiB; 0 if that is not Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def run(args: argparse.Namespace) -> str:
    """Recognise all of a wav.scp, write the texts, and say what it took."""
    if args.output.is_dir():
        raise ValueError(f"{args.output}: a folder; --output is a file")
    temporary = args.output.with_name(f".{args.output.name}.tmp.{os.getpid()}")
    try:
        temporary.touch()  # what cannot be written is said before the work
        texts, report = recognize(args)
        lines = (f"{name} {text}\n" for name, text in texts.items())
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(args.output)
    finally:
        temporary.unlink(missing_ok=True)
    return report


def recognize(args: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Recognise all of a wav.scp.

    Returns:
        Utterance id -> text, and what it took.
    """
    recordings = read_columns(args.wav_scp)
    references = None if args.ref is None else read_columns(args.ref)
    if not recordings:
        raise ValueError(f"{args.wav_scp}: no recordings in it")
    if without := [name for name, path in recordings.items() if not path]:
        raise ValueError(f"{args.wav_scp}: {without[0]} has no audio file")
    if references is not None and not recordings.keys() <= references.keys():
        missing = sorted(recordings.keys() - references.keys())
        raise ValueError(f"{args.ref}: {len(missing)} texts missing, such as that of {missing[0]}")
    memory_before = peak_memory()
    try:
        recognizer = Recognizer(args.model_file, args.num_threads)
    except Exception as error:  # onnxruntime's classes of errors have no base of their own
        what = "no file of espnet_moe_share.bin.export" if isinstance(error, KeyError) else error
        raise ValueError(f"{args.model_file}: {what}") from None
    seconds = speech_seconds = 0.0
    texts = {}
    for number, (name, path) in enumerate(recordings.items()):
        speech = read_speech(path, recognizer.sampling_rate)
        if number == 0:  # onnxruntime sets up its memory
            recognizer(speech)
        start = time.perf_counter()
        texts[name] = recognizer(speech)
        seconds += time.perf_counter() - start
        speech_seconds += len(speech) / recognizer.sampling_rate
    memory = peak_memory()
    report = [
        f"{args.model_file}: {args.model_file.stat().st_size} bytes",
        f"{len(texts)} utterances, {speech_seconds:.1f} s of speech; {args.num_threads} thread(s)",
        f"real-time factor {seconds / max(speech_seconds, 1e-9):.4f}",
    ]
    if memory > 0:
        own = memory - memory_before
        report.append(f"peak memory {memory:.1f} MiB, {own:.1f} of it for model and speech")
    if references is not None:
        pairs = [
            (references[name].replace(" ", ""), texts[name].replace(" ", "")) for name in texts
        ]
        errors = sum(edit_distance(*pair) for pair in pairs)
        characters = sum(len(reference) for reference, _ in pairs)
        report.append(
            f"CER {100 * errors / max(characters, 1):.2f} % ({errors} of {characters}, "
            "without spaces)"
        )
    return texts, "\n".join(report)


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description="Recognise speech with an exported model.")
    parser.add_argument("--model_file", type=Path, required=True, help="exported *.onnx")
    parser.add_argument("--wav_scp", type=Path, required=True, help="lines <id> <audio file>")
    parser.add_argument("--output", type=Path, required=True, help="file of lines <id> <text>")
    parser.add_argument("--ref", type=Path, help="right texts, lines <id> <text>: prints the CER")
    parser.add_argument(
        "--num_threads", type=_number, default=1, metavar="N", help="CPU threads [%(default)s]"
    )
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: a number from 1 is needed")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    args = get_parser().parse_args(arguments)
    try:
        print(run(args))
    except ValueError as error:
        sys.exit(f"recognize_onnx: error: {' '.join(str(error).split())}")
    except OSError as error:
        # A full disk does not say which file it could not take.
        sys.exit(f"recognize_onnx: error: {error.filename or args.output}: {error.strerror}")


if __name__ == "__main__":
    main()
