"""Tabulate the grid's results (local/grid.sh): mean and spread over seeds of every system."""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from command_line import UserError, run, written_whole
from grid_result import RESULT

from espnet_moe_share.comparison.environment import environment_lines

HEADER = (
    "|system|encoder layers|total|seeds|CER|largest share|load entropy|routing entropy"
    "|agreement|mutual information|\n|---|---|---|---|---|---|---|---|---|---|\n"
)
LEGEND = """\
CER in per cent: mean ± standard deviation over seeds (each seed's). The rest are means over layers
and seeds, on the first test set. Largest share: of a layer's choices, that of its busiest expert
(even: 1 / experts). Load entropy: of these shares; routing entropy: of the router's probabilities
for one frame; both divided by their maximum, log experts. Agreement: frames whose expert has the
same number in two layers that follow one another; mutual information: of the two choices,
normalised to 0 ... 1, whatever the numbers.
"""


def spread(values: list[float], digits: int) -> str:
    """``mean ± standard deviation``; the mean alone of a single value."""
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.{digits}f}"


def usage_cells(usages: list[dict[str, Any]]) -> list[str]:
    """Means over layers, then mean and spread over seeds; dashes for a dense system."""
    if not usages:
        return ["-"] * 5

    def layers(value: Any) -> list[float]:
        return [fmean(value(layer) for layer in usage["layers"]) for usage in usages]

    def neighbours(name: str) -> list[float]:
        return [fmean(pair[name] for pair in usage["neighbours"]) for usage in usages]

    return [
        spread(values, 2)
        for values in (
            layers(lambda layer: max(layer["load"])),
            layers(lambda layer: layer["load_entropy"] / math.log(layer["num_experts"])),
            layers(lambda layer: layer["routing_entropy"] / math.log(layer["num_experts"])),
            neighbours("agreement"),
            neighbours("mutual_information"),
        )
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown table, a row per system and test set, in the order of the systems' names."""
    text = HEADER
    by_system: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda result: (result["system"], result["seed"])):
        by_system.setdefault(result["system"], []).append(result)
    for system, runs in by_system.items():
        parameters = runs[0]["parameters"]
        sets = dict.fromkeys(name for result in runs for name in result["cer"])
        for dataset in sets:
            scored = [result for result in runs if dataset in result["cer"]]
            rates = [result["cer"][dataset] for result in scored]
            each = f" ({', '.join(f'{rate:.1f}' for rate in rates)})" if len(rates) > 1 else ""
            cells = [
                system.replace("_", " ") + (f", {dataset}" if len(sets) > 1 else ""),
                f"{parameters['encoder_layer_params']:,}",
                f"{parameters['total_params']:,}",
                " ".join(str(result["seed"]) for result in scored),
                spread(rates, 1) + each,
                *usage_cells([r["expert_usage"] for r in scored if r["expert_usage"]]),
            ]
            text += f"|{'|'.join(cells)}|\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expdir", type=Path, required=True, help="holds asr_*/grid_result.json")
    parser.add_argument("--output", type=Path, required=True, help="GRID.md to write")
    parser.add_argument("--command", default="", help="command that made the results")
    args = parser.parse_args()
    files = sorted(args.expdir.glob(f"asr_*/{RESULT}"))
    if not files:
        raise UserError(f"{args.expdir}: no asr_*/{RESULT}; run the grid first")
    text = table([json.loads(file.read_text(encoding="utf-8")) for file in files])
    with written_whole(args.output) as stream:
        stream.write(
            f"# Grid\n## Environments\n{environment_lines(args.command)}\n## Systems\n\n"
            f"{text}\n{LEGEND}"
        )
    print(f"{text}{args.output}: written")


if __name__ == "__main__":
    run(main)
