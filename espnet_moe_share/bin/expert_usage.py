"""Run a trained model over recordings and say how it uses its experts.

    python -m espnet_moe_share.bin.expert_usage --asr_train_config exp/asr_student/config.yaml \
        --asr_model_file exp/asr_student/valid.acc.ave.pth --wav_scp dump/raw/test/wav.scp \
        --output exp/asr_student/expert_usage.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import soundfile
import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.experts.usage import ExpertUsage
from espnet_moe_share.files import whole_file


def measure(model: ESPnetASRModel, recordings: dict[str, Path]) -> dict[str, Any]:
    """Encode recordings and tally what the routers decide.

    Args:
        model: With expert layers; set to evaluation mode.
        recordings: Utterance id -> audio file.

    Returns:
        :meth:`espnet_moe_share.experts.usage.ExpertUsage.summary`.

    Raises:
        ConfigurationError: The model has no expert layers, or a recording cannot be read.
    """
    usage = ExpertUsage()
    model.eval()
    with torch.no_grad():
        for name, file in recordings.items():
            try:
                samples, _ = soundfile.read(file, dtype="float32")
            except (OSError, RuntimeError) as error:
                raise ConfigurationError(f"{file} of {name}: unreadable audio ({error})") from error
            speech = torch.from_numpy(samples).unsqueeze(0)
            with record_routing(model.encoder) as records:
                model.encode(speech, torch.tensor([speech.size(1)]))
            if not records:
                raise ConfigurationError("the model has no expert layers, so nothing to measure")
            usage.add(records)
    return usage.summary()


def read_wav_scp(path: Path) -> dict[str, Path]:
    """Read ``<utterance id> <audio file>`` lines.

    Raises:
        ConfigurationError: No such file, no line in it, or a line that is a pipe or has no file.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; a wav.scp is needed")
    recordings: dict[str, Path] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, file = line.strip().partition(" ")
        if not file or file.endswith("|"):
            raise ConfigurationError(f"{path}:{number}: '<utterance id> <audio file>' is needed")
        recordings[name] = Path(file.strip())
    if not recordings:
        raise ConfigurationError(f"{path}: no recordings in it")
    return recordings


def get_parser() -> argparse.ArgumentParser:
    """Options, named as those of ``espnet2.bin.asr_inference``."""
    parser = argparse.ArgumentParser(description="Measure how a trained model uses its experts.")
    parser.add_argument("--asr_train_config", required=True, help="config.yaml of the training")
    parser.add_argument("--asr_model_file", required=True, help="its model, *.pth")
    parser.add_argument("--wav_scp", type=Path, required=True, help="recordings to run it over")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    args = get_parser().parse_args(arguments)
    try:
        recordings = read_wav_scp(args.wav_scp)
        from espnet_moe_share.task import ASRTask

        model, _ = ASRTask.build_model_from_file(args.asr_train_config, args.asr_model_file)
        summary = measure(model, recordings)
    except (ConfigurationError, CheckpointMismatchError) as error:
        sys.exit(f"expert_usage: error: {error}")
    with whole_file(args.output) as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output}: {len(recordings)} utterances, {len(summary['layers'])} expert layers")


if __name__ == "__main__":
    main()
