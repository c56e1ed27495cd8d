"""Compare experiments: parameters, error rates, real-time factor, file size, training time.

    python -m espnet_moe_share.bin.compare exp/asr_teacher exp/asr_student --output exp/RESULTS.md

in the recipe's directory, for what ESPnet's recipes leave in exp/. With two experiments it also
says what of their difference may be chance (paired bootstrap over utterances).
"""

import argparse
import shlex
import sys
from pathlib import Path

from espnet_moe_share.comparison.bootstrap import Difference, bootstrap_difference
from espnet_moe_share.comparison.environment import environment_lines
from espnet_moe_share.comparison.experiment import training_options
from espnet_moe_share.comparison.system import System, read_system, set_labels, unique_names
from espnet_moe_share.comparison.tables import (
    LEGEND,
    comparison_table,
    difference_table,
    espnet_tables,
)
from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.files import check_writable, whole_file


def compare(systems: list[System]) -> dict[tuple[str, str], Difference]:
    """Differences in CER and WER of exactly two systems; of others none.

    Returns:
        (Set, ``cer`` or ``wer``) -> second system minus first.

    Raises:
        ConfigurationError: They have not scored the same utterances.
    """
    if len(systems) != 2:
        return {}
    labels = set_labels(systems)
    differences: dict[tuple[str, str], Difference] = {}
    for label in labels[0]:
        if label not in labels[1]:
            continue
        a, b = (s.sets[names[label]].errors for s, names in zip(systems, labels))
        for score in ("cer", "wer"):
            if score in a and score in b:
                differences[label, score] = bootstrap_difference(
                    a[score], b[score], f"{label}, {score.upper()}"
                )
    return differences


def results_text(systems: list[System], tables: str, command: str) -> str:
    """Text of a RESULTS.md: environment, systems, tables."""
    text = f"# RESULTS\n## Environments\n{environment_lines(command)}\n## Systems\n"
    for system in systems:
        options = training_options(system.experiment)
        text += (
            f"- {system.name}: `{system.experiment}`, configuration `{options.get('config')}`, "
            f"seed {options.get('seed')}, model `{system.model}`\n"
        )
    return f"{text}\n{tables}\n{LEGEND}\n{espnet_tables(systems)}"


def get_parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_moe_share.bin.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", type=Path, nargs="+", help="exp/asr_<tag>")
    parser.add_argument(
        "--asr_model_file",
        nargs="+",
        default=["valid.acc.ave.pth"],
        help="file name of the model that was decoded: one for all, or one for each "
        "[valid.acc.ave.pth]",
    )
    parser.add_argument("--names", nargs="+", help="of the systems [those of the directories]")
    parser.add_argument("--output", type=Path, help="RESULTS.md to write")
    parser.add_argument("--figure", type=Path, help="figure to write, without .png and .pdf")
    parser.add_argument("--command", help="command that made the results [this one]")
    return parser


def _read(args: argparse.Namespace) -> list[System]:
    count = len(args.experiment)
    models = args.asr_model_file * (count if len(args.asr_model_file) == 1 else 1)
    names = args.names or unique_names(args.experiment)
    for option, values in (("--asr_model_file", models), ("--names", names)):
        if len(values) != count:
            raise ConfigurationError(f"{option}: {len(values)} for {count} experiments")
    if len(set(names)) != count:
        raise ConfigurationError(f"--names {' '.join(names)}: each has to be another")
    return [read_system(*system) for system in zip(names, args.experiment, models, strict=True)]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    args = get_parser().parse_args(arguments)
    command = args.command or " ".join(
        [get_parser().prog, shlex.join(sys.argv[1:] if arguments is None else arguments)]
    )
    with exit_in_one_line("compare"):
        _print_and_write(args, command)


def _print_and_write(args: argparse.Namespace, command: str) -> None:
    if args.output is not None:
        check_writable(args.output)
    if args.figure is not None:
        from espnet_moe_share.plotting import figure_files

        for file in figure_files(args.figure):
            check_writable(file)
    systems = _read(args)
    differences = compare(systems)
    tables = comparison_table(systems)
    if differences:
        tables += f"\n{difference_table(systems[0], systems[1], differences)}"
    elif len(systems) == 2:
        tables += "\nNo set that both have decoded with options of the same name: no difference.\n"
    print(tables, end="")
    if args.output is not None:
        with whole_file(args.output) as temporary:
            temporary.write_text(results_text(systems, tables, command), encoding="utf-8")
        print(f"{args.output}: written")
    if args.figure is not None:
        from espnet_moe_share.comparison.figure import comparison_figure
        from espnet_moe_share.plotting import save

        for file in save(comparison_figure(systems, differences), args.figure):
            print(f"{file}: written")


if __name__ == "__main__":
    main()
