#!/usr/bin/env python3
"""Measure how the student encoder's cost grows with experts, depth and length of the utterance.

    python3 benchmarks/growth.py --png growth.png
    python3 benchmarks/growth.py --axes experts --passes "training step"

    experts   number of experts at fixed top_k: computation stays, weights grow
    depth     number of layers at fixed groups of the sharing rules: weights (nearly) stay
    length    seconds of one utterance: attention grows with its square; the teacher beside it

Every axis is one comparison: all its sizes take turns, and ratios are to the smallest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from encoder import PASSES, steps
from interleaved import Comparison, compare
from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter, StrMethodFormatter
from models import EncoderSettings, balance_routers, features_of
from report import add_configurations, add_threads, begin, markdown, parser, start, write_json

from espnet_moe_share.files import whole_file
from espnet_moe_share.plotting import OKABE_ITO, new_figure

AXES = {"experts": "experts", "depth": "layers", "length": "length of the utterance (s)"}
PROPORTIONAL = {"depth": "layer", "length": "second"}
TITLES = {
    "experts": "experts with the same top_k",
    "depth": "layers in the same groups",
    "length": "longer utterances",
}


def sizes_of(options: Any, axis: str) -> dict[str, tuple[EncoderSettings, float, float]]:
    """Encoder, seconds of its input and place on the axis, by name of the candidate.

    The first is the smallest.
    """
    student = EncoderSettings.read(options.student)
    found = {}
    for size in sorted(getattr(options, axis)):
        name, settings, seconds = f"{size:g}", student, options.utterance
        if axis == "experts":
            experts = student.arguments.get("experts") or {}
            settings = student.changed(experts={**experts, "num_experts": int(size)})
        elif axis == "depth":
            settings = student.changed(num_blocks=int(size))
        else:
            seconds = size
        found[name] = settings, seconds, size
        if axis == "length":
            found[f"{name}, teacher"] = EncoderSettings.read(options.teacher), seconds, size
    return found


def measure(options: Any, axis: str, which: str) -> list[dict[str, Any]]:
    """One row for every size."""
    calls: dict[str, Callable[[], object]] = {}
    rows = []
    built: dict[str, Any] = {}  # one encoder serves all lengths
    for name, (settings, seconds, size) in sizes_of(options, axis).items():
        key = repr(settings)
        if key not in built:
            built[key] = settings.build()
        encoder = built[key]
        features, lengths = features_of(settings, [seconds])
        balance_routers(encoder, features, lengths)
        calls[name] = steps(encoder, features, lengths, which, autocast=False)
        params = sum(parameter.numel() for parameter in encoder.parameters())
        rows.append({"axis": axis, "pass": which, "name": name, "size": size, "params": params})
    compared: Comparison = compare(calls, options.rounds, options.seconds, options.axis_seconds)
    smallest = rows[0]["size"]
    for row in rows:
        row["seconds"] = vars(compared.seconds[row["name"]])
        row["ratio"] = vars(compared.ratios[row["name"]])
        row["ratio_text"] = str(compared.ratios[row["name"]])
        row["ratio_per_size"] = row["ratio"]["median"] * smallest / row["size"]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds and growth; per layer and per second, what stays 1 if cost is proportional."""
    columns = ["pass", AXES[rows[0]["axis"]], "parameters (M)", "ms", "to the first"]
    proportional = PROPORTIONAL.get(rows[0]["axis"])
    if proportional is not None:
        columns.append(f"per {proportional}, to the first")
    return markdown(
        columns,
        [
            [
                row["pass"],
                row["name"],
                f"{row['params'] / 1e6:.2f}",
                f"{1e3 * row['seconds']['median']:.1f}",
                row["ratio_text"],
                *([f"{row['ratio_per_size']:.2f}"] if proportional is not None else []),
            ]
            for row in rows
        ],
    )


def draw(tables: Sequence[Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the ratios to the first size over each axis, with quartiles."""
    figure = new_figure(4.2 * len(tables), 3.4)
    panels = figure.subplots(1, len(tables), squeeze=False)
    for panel, rows in zip(panels[0], tables):
        for model, color, marker in zip(("student", "teacher"), OKABE_ITO, "os"):
            chosen = [
                row for row in rows if row["name"].endswith("teacher") == (model == "teacher")
            ]
            if not chosen:
                continue
            ratios = [row["ratio"] for row in chosen]
            median = [one["median"] for one in ratios]
            below = [one["median"] - one["lower_quartile"] for one in ratios]
            above = [one["upper_quartile"] - one["median"] for one in ratios]
            size = [row["size"] for row in chosen]
            style = {"marker": marker, "color": color, "capsize": 3, "label": model}
            panel.errorbar(size, median, (below, above), **style)
        unit = AXES[rows[0]["axis"]]
        panel.set(xscale="log", yscale="log", xlabel=unit)
        panel.set_ylabel(f"time, in multiples of the student's at {size[0]:g}")
        panel.set_xticks(size, [f"{one:g}" for one in size])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        if panel.get_ylim()[1] < 2:
            panel.yaxis.set_major_locator(MultipleLocator(0.1))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"{rows[0]['pass']}: {TITLES[rows[0]['axis']]}", fontsize="medium")
        panel.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__, rounds=11)
    add_threads(made)
    add_configurations(made)
    made.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    made.add_argument("--passes", nargs="+", choices=PASSES, default=["forward"])
    made.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    made.add_argument("--depth", type=int, nargs="+", default=[2, 4, 6, 12, 24])
    made.add_argument("--length", type=float, nargs="+", default=[1, 3, 10, 30, 60])
    made.add_argument(
        "--utterance", type=float, default=10, help="seconds, for the other axes [10]"
    )
    made.add_argument(
        "--axis_seconds", type=float, default=60.0, help="no further round after this"
    )
    made.add_argument("--png", type=Path, help="draw a figure, too")
    options, head = begin(made, "growth.py", arguments)
    tables = []
    for which in options.passes:
        for axis in options.axes:
            tables.append(measure(options, axis, which))
            print(table(tables[-1]), flush=True)
    write_json(options.json, head, rows=[row for rows in tables for row in rows])
    if options.png is not None:
        draw(tables, options.png)


if __name__ == "__main__":
    start(main)
