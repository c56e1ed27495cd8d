"""Export the encoder and the CTC head of a trained model, features included, for small devices.

    python -m espnet_moe_share.bin.export --asr_train_config exp/asr_student/config.yaml \
        --asr_model_file exp/asr_student/valid.acc.ave.pth --output_dir exp/asr_student/export \
        --wav_scp dump/raw/test/wav.scp

writes ``ctc.pt2`` (a program of torch.export), ``ctc.onnx`` and ``ctc_int8.onnx``. With a wav.scp
the graphs are run by onnxruntime over its recordings and compared with PyTorch.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.files import check_writable, whole_file

if TYPE_CHECKING:
    import numpy as np
    from espnet2.asr.espnet_model import ESPnetASRModel

Runner = Callable[["np.ndarray"], "np.ndarray"]

_FILES = {
    "torch.export": "ctc.pt2",
    "ONNX float32": "ctc.onnx",
    "ONNX int8": "ctc_int8.onnx",
}
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export(model: "ESPnetASRModel", args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Write the three files.

    Args:
        model: The trained model.
        args: Arguments of its training.
        folder: For the files.

    Returns:
        Kind of file (``torch.export``, ``ONNX float32``, ``ONNX int8``) -> file.

    Raises:
        ConfigurationError: The model has no CTC head, or a part that cannot be exported.
    """
    import onnx

    from espnet_moe_share.export.ctc_encoder import CTCEncoder
    from espnet_moe_share.export.program import export_onnx, export_program, save_program
    from espnet_moe_share.export.quantization import quantize

    module = CTCEncoder(model.eval())
    min_samples = module.min_samples()
    metadata = {
        "token_list": json.dumps(list(args.token_list), ensure_ascii=False),
        "token_type": str(args.token_type),
        "sampling_rate": str(model.frontend.logmel.mel_options["sr"]),
        "min_samples": str(min_samples),
    }
    program = export_program(module, min_samples)
    graph = export_onnx(program, metadata)
    files = {kind: folder / name for kind, name in _FILES.items()}
    with whole_file(files["ONNX float32"]) as file:
        onnx.save(graph, file)
    with whole_file(files["ONNX int8"]) as file:
        quantize(graph, file)
    with whole_file(files["torch.export"]) as file, file.open("wb") as stream:
        save_program(program, stream)
    return files


def runners(files: dict[str, Path]) -> dict[str, Runner]:
    """Load what was written: kind of file -> samples (samples,) to log-probabilities (T, V)."""
    import onnxruntime
    import torch

    program = torch.export.load(files["torch.export"]).module()

    def run_program(speech: "np.ndarray") -> "np.ndarray":
        with torch.no_grad():
            return program(torch.from_numpy(speech)[None])[1][0].numpy()

    def graph_runner(file: Path) -> Runner:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda speech: session.run(["log_probs"], {"speech": speech[None]})[0][0]

    return {
        "torch.export": run_program,
        **{kind: graph_runner(file) for kind, file in files.items() if kind != "torch.export"},
    }


def compare(
    model: "ESPnetASRModel", files: dict[str, Path], recordings: dict[str, Path]
) -> dict[str, str]:
    """Run what was exported and ESPnet's model over recordings.

    Args:
        model: The trained model.
        files: From :func:`export`.
        recordings: Utterance id -> audio file.

    Returns:
        Kind of file -> how far its log-probabilities and best tokens are from ESPnet's, and how
        many recordings were too short to be compared.

    Raises:
        ConfigurationError: A recording cannot be read.
    """
    import torch

    from espnet_moe_share.bin.recognize_onnx import Recognizer, read_speech

    recognizer = Recognizer(files["ONNX float32"])
    run = runners(files)
    largest = dict.fromkeys(run, 0.0)
    differing, frames, utterances = dict.fromkeys(run, 0), 0, 0
    for path in recordings.values():
        try:
            speech = read_speech(str(path), recognizer.sampling_rate)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if len(speech) < recognizer.min_samples:
            continue
        utterances += 1
        with torch.no_grad():
            batch = torch.from_numpy(speech)[None]
            output = model.encode(batch, torch.tensor([len(speech)]))[0]
            output = output[0] if isinstance(output, tuple) else output
            wanted = model.ctc.log_softmax(output)[0].numpy()
        frames += len(wanted)
        for kind in run:
            found = run[kind](speech)
            largest[kind] = max(largest[kind], float(abs(found - wanted).max()))
            differing[kind] += int((found.argmax(-1) != wanted.argmax(-1)).sum())
    short = len(recordings) - utterances
    left_out = f", {short} too short" if short else ""
    if not utterances:
        return dict.fromkeys(run, f"nothing to compare with: 0 utterances{left_out}")
    return {
        kind: f"{utterances} utterances{left_out}: log-probabilities differ by "
        f"{largest[kind]:.2g} at most, the best token in {differing[kind]} of {frames} frames"
        for kind in run
    }


def run(args: argparse.Namespace) -> str:
    """Export, compare, and say what is in the files."""
    from espnet_moe_share.task import ASRTask
    from espnet_moe_share.usage.data import read_wav_scp

    recordings = None if args.wav_scp is None else read_wav_scp(args.wav_scp)
    for name in _FILES.values():
        check_writable(args.output_dir / name)
    model, train_args = ASRTask.build_model_from_file(args.asr_train_config, args.asr_model_file)
    files = export(model, train_args, args.output_dir)
    checkpoint = Path(args.asr_model_file).stat().st_size
    lines = [f"{args.asr_model_file}: {checkpoint} bytes (whole model, decoder included)"]
    found = {} if recordings is None else compare(model, files, recordings)
    for kind, file in files.items():
        size = file.stat().st_size
        lines.append(f"{file}: {kind}, {size} bytes, {size / checkpoint:.3f} of the checkpoint")
        if kind in found:
            lines.append(f"    {found[kind]}")
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    """Options, named as those of ``espnet2.bin.asr_inference``."""
    parser = argparse.ArgumentParser(
        description="Export the encoder and CTC head of a trained model, features included."
    )
    parser.add_argument("--asr_train_config", required=True, help="config.yaml of the training")
    parser.add_argument("--asr_model_file", required=True, help="its model, *.pth")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the files")
    parser.add_argument("--wav_scp", type=Path, help="recordings to compare with PyTorch on")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from importlib.util import find_spec

    args = get_parser().parse_args(arguments)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"export: error: {', '.join(missing)} not installed; "
            "pip install 'espnet_moe_share[export]'"
        )
    with exit_in_one_line("export"):
        print(run(args))


if __name__ == "__main__":
    main()
