"""Write <experiment>/RESULTS.md: environment, configuration, and error rates of one model."""

import argparse
from pathlib import Path

from command_line import run, written_whole
from experiment import count_parameters, environment_lines, training_options
from results_table import markdown_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="exp/asr_<tag>")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="model that was decoded")
    parser.add_argument("--command", default="", help="command that made the results")
    args = parser.parse_args()
    options = training_options(args.experiment)
    parameters = count_parameters(args.experiment, args.model)
    megabytes = (args.experiment / args.model).stat().st_size / 1e6
    with written_whole(args.experiment / "RESULTS.md") as stream:
        stream.write(
            f"# RESULTS\n## Environments\n{environment_lines(args.command)}\n"
            f"## {args.experiment}\n"
            f"- configuration: `{options.get('config')}`\n"
            f"- seed: {options.get('seed')}\n"
            f"- model: `{args.model}`, {megabytes:.2f} MB\n"
            f"- parameters: {parameters.total_params:,}; encoder "
            f"{parameters.encoder_params:,}; encoder layers "
            f"{parameters.encoder_layer_params:,}\n\n"
            f"{markdown_tables({'': (args.experiment, args.model)})}"
        )
    print(f"{args.experiment / 'RESULTS.md'}: written")


if __name__ == "__main__":
    run(main)
