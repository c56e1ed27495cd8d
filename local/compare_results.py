"""Write a RESULTS.md that shows teacher and student side by side, and print its tables."""

import argparse
from pathlib import Path

from command_line import run, written_whole
from experiment import count_parameters, environment_lines, training_options
from results_table import markdown_tables


def size_table(experiments: dict[str, tuple[Path, str]]) -> str:
    """Parameters of all systems and, after the first, their shares of the first's."""
    text = (
        "|system|encoder layers|of teacher|encoder|of teacher|total|of teacher|model file|\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    counts = {name: count_parameters(*system) for name, system in experiments.items()}
    first = next(iter(counts.values()))
    for name, count in counts.items():
        cells = [name]
        for field in ("encoder_layer_params", "encoder_params", "total_params"):
            number, reference = getattr(count, field), getattr(first, field)
            cells += [f"{number:,}", f"{number / reference:.3f}"]
        experiment, model = experiments[name]
        megabytes = (experiment / model).stat().st_size / 1e6
        text += f"|{'|'.join([*cells, f'{megabytes:.2f} MB'])}|\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="exp/asr_<teacher tag>")
    parser.add_argument("--teacher_model", required=True, help="file name of its model")
    parser.add_argument("--student", type=Path, required=True, help="exp/asr_<student tag>")
    parser.add_argument("--student_model", required=True, help="file name of its model")
    parser.add_argument("--output", type=Path, required=True, help="exp/RESULTS.md")
    parser.add_argument("--command", default="", help="command that made the results")
    args = parser.parse_args()
    experiments: dict[str, tuple[Path, str]] = {
        "teacher": (args.teacher, args.teacher_model),
        "student": (args.student, args.student_model),
    }
    text = f"# RESULTS\n## Environments\n{environment_lines(args.command)}\n## Systems\n"
    for name, (path, model) in experiments.items():
        options = training_options(path)
        text += (
            f"- {name}: `{path}`, configuration `{options.get('config')}`, seed "
            f"{options.get('seed')}, model `{model}`\n"
        )
    tables = size_table(experiments) + "\n" + markdown_tables(experiments)
    with written_whole(args.output) as stream:
        stream.write(f"{text}\n{tables}")
    print(f"{tables}{args.output}: written")


if __name__ == "__main__":
    run(main)
