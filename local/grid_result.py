"""Write <experiment>/grid_result.json: what the grid's table needs of one scored system."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from command_line import UserError, run, written_whole

from espnet_moe_share.comparison.experiment import count_parameters, training_options
from espnet_moe_share.comparison.sclite import read_summary, result_files

RESULT = "grid_result.json"


def made_from(config: Path, seed: int, asr_args: str) -> dict[str, Any]:
    """What a result belongs to; when this changes, the system must be trained again."""
    return {"config": config.read_text(encoding="utf-8"), "seed": seed, "asr_args": asr_args}


def is_current(experiment: Path, wanted: dict[str, Any]) -> bool:
    """Whether the experiment has a result, and it was made from the same."""
    try:
        found = json.loads((experiment / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found.get("made_from") == wanted)


def error_rates(experiment: Path, model: str) -> dict[str, float]:
    """CER in per cent of each scored set."""
    files = result_files(experiment, model, "cer")
    if not files:
        raise UserError(f"{experiment}: nothing scored for {model}; run stages 12 and 13")
    return {
        dataset.rpartition("/")[2]: float(read_summary(file).error)
        for dataset, file in files.items()
    }


def expert_usage(experiment: Path, model: str, wav_scp: Path) -> dict[str, Any] | None:
    """Usage of the experts over a set's recordings; None for a dense system."""
    encoder_conf = training_options(experiment).get("encoder_conf")
    if not isinstance(encoder_conf, dict) or not encoder_conf.get("experts"):
        return None
    from espnet_moe_share.usage.data import DataDirectory, read_wav_scp
    from espnet_moe_share.usage.measure import measure
    from espnet_moe_share.usage.model import UsageModel

    built = UsageModel.from_files(experiment / "config.yaml", experiment / model)
    return measure(built, DataDirectory(read_wav_scp(wav_scp), {}, {})).usage.summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="exp/asr_<tag>")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="model that was decoded")
    parser.add_argument("--system", required=True, help="name in the table")
    parser.add_argument("--config", type=Path, required=True, help="its configuration")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--asr_args", default="", help="further options it was trained with")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"))
    parser.add_argument(
        "--check", action="store_true", help="only say by the status if it is there"
    )
    args = parser.parse_args()
    origin = made_from(args.config, args.seed, args.asr_args)
    if args.check:
        sys.exit(0 if is_current(args.experiment, origin) else 1)
    rates = error_rates(args.experiment, args.model)
    wav_scp = args.dumpdir / "raw" / next(iter(rates)) / "wav.scp"
    result = {
        "made_from": origin,
        "system": args.system,
        "seed": args.seed,
        "cer": rates,
        "parameters": asdict(count_parameters(args.experiment, args.model)),
        "expert_usage": expert_usage(args.experiment, args.model, wav_scp),
    }
    with written_whole(args.experiment / RESULT) as stream:
        json.dump(result, stream, indent=1)
    print(f"{args.experiment / RESULT}: written; CER {rates}")


if __name__ == "__main__":
    run(main)
