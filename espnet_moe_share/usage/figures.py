"""Figures over a whole set; layers and experts count from 0, as in the logs."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from espnet_moe_share.plotting import OKABE_ITO, SHARES, new_figure

MOST_LABELS = 30  # that a figure shows
_MOST_NUMBERS = 16  # experts whose shares are written into the cells
_LAYER = re.compile(r"encoders\.(\d+)\.(.+)")


def layer_names(paths: Sequence[str]) -> list[str]:
    """Short names of expert layers: ``3``, or ``3 macaron`` where layers have several."""
    found = [_LAYER.fullmatch(path) for path in paths]
    modules = {match[2] if match else "" for match in found}
    names = []
    for path, match in zip(paths, found):
        module = match[2].removeprefix("feed_forward").strip("_") if match else ""
        names.append(" ".join([match[1], module or "second"][: len(modules)]) if match else path)
    return names


def load_figure(loads: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Heat map of the load: a row for each layer, the first below, a column for each expert.

    Args:
        loads: Path of the expert layer -> share of its choices per expert.
        title: What the load is of.
    """
    shares_LE = _rectangle(list(loads.values()))
    layers, experts = shares_LE.shape
    figure = new_figure(max(4.5, 1.6 + 0.55 * experts), 1.6 + 0.32 * layers)
    axes = figure.subplots()
    # An even load is in the middle of the colours, so that what differs from it stands out.
    top = max(2 / experts, float(np.nanmax(shares_LE)))
    image = axes.imshow(shares_LE, aspect="auto", cmap=SHARES, origin="lower", vmin=0, vmax=top)
    if experts <= _MOST_NUMBERS:
        _write_numbers(axes, shares_LE, top / 2)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(f"expert (even load: {1 / experts:.2f})")
    axes.set_ylabel("encoder layer")
    axes.set_xticks(_ticks(experts))
    axes.set_yticks(range(layers), layer_names(list(loads)))
    figure.colorbar(image, ax=axes, label="share of choices in its layer")
    return figure


def _rectangle(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of one length; NaN where a layer has fewer experts than another."""
    width = max(map(len, rows))
    return np.array([[*row, *[math.nan] * (width - len(row))] for row in rows])


def _ticks(number: int) -> Sequence[int]:
    return range(0, number, max(1, number // 16))


def _name_ticks(axes: Axes, positions: Iterable[float], names: Sequence[str]) -> None:
    long = max(map(len, names)) > 3
    axes.set_xticks(list(positions), names, rotation=90 if long else 0)


def _write_numbers(axes: Axes, values: np.ndarray, middle: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="x-small",
                      color=color)  # fmt: skip


def label_figure(summary: Mapping[str, Any], title: str, ylabel: str) -> Figure:
    """Heat map of the load by label: a row for each label, a block of columns for each layer.

    Args:
        summary: Of :meth:`espnet_moe_share.usage.labels.ChoicesByLabel.summary`.
        title: What labels these are.
        ylabel: The same, for the axis.
    """
    labels = summary["labels"][:MOST_LABELS]
    paths = list(summary["explained"])
    blocks = [_rectangle([label["load"].get(path, [math.nan]) for label in labels])
              for path in paths]  # fmt: skip
    shares = np.concatenate(blocks, axis=1)
    width = min(16.0, max(6.0, 2.2 + 0.11 * shares.shape[1]))
    figure = new_figure(width, 1.6 + 0.22 * max(len(labels), 4))
    axes = figure.subplots()
    image = axes.imshow(shares, aspect="auto", cmap=SHARES, vmin=0)
    edges = np.cumsum([0, *(block.shape[1] for block in blocks)]) - 0.5
    for edge in edges[1:-1]:
        axes.axvline(edge, color="white", linewidth=2)
    _name_ticks(axes, (edges[:-1] + edges[1:]) / 2, layer_names(paths))
    axes.set_yticks(
        range(len(labels)), [f"{label['label']}  ({label['frames']:,})" for label in labels]
    )
    experts = blocks[0].shape[1]
    axes.set_xlabel(f"encoder layer; in each, experts 0 to {experts - 1} from left to right")
    axes.set_ylabel(f"{ylabel} (frames)")
    total = len(summary["labels"])
    shown = f", the {len(labels)} most frequent of {total}" if total > len(labels) else ""
    axes.set_title(title + shown, fontsize="medium")
    figure.colorbar(image, ax=axes, label="share of choices", fraction=0.06, aspect=30)
    return figure


def routing_figure(summary: Mapping[str, Any]) -> Figure:
    """Entropies by layer, agreement of layers, and what labels say about the choice.

    Args:
        summary: Of :meth:`espnet_moe_share.usage.measure.Measured.summary`.
    """
    panels = 3 if summary["by_label"] else 2
    figure = new_figure(4.5 * panels, 4.2)
    left, middle, *more = figure.subplots(1, panels)
    layers = summary["layers"]
    names = layer_names([layer["name"] for layer in layers])
    positions = range(len(layers))
    for row, (key, label) in enumerate(
        {
            "load_entropy": "of the load (1: even)",
            "routing_entropy": "of the router, per frame (0: sure)",
        }.items()
    ):
        values = [layer[key] / max(math.log(layer["num_experts"]), 1e-9) for layer in layers]
        axes_style = {"color": OKABE_ITO[row], "marker": "os"[row], "label": label}
        left.plot(positions, values, **axes_style)
    _by_layer(left, names, "Entropy of load and routing", "entropy / log(experts)")

    matrix = np.full((len(names), len(names)), math.nan)
    index = {layer["name"]: number for number, layer in enumerate(layers)}
    for pair in summary["pairs"]:
        a, b = (index[name] for name in pair["names"])
        # What does not depend on numbers below the diagonal, agreement of numbers above.
        matrix[max(a, b), min(a, b)] = pair["mutual_information"]
        matrix[min(a, b), max(a, b)] = pair["agreement"]
    image = middle.imshow(matrix, cmap=SHARES, vmin=0, vmax=1, origin="lower")
    if len(names) <= 12:
        _write_numbers(middle, matrix, 0.5)
    _name_ticks(middle, positions, names)
    middle.set_yticks(positions, names)
    middle.set_xlabel("encoder layer")
    middle.set_ylabel("encoder layer")
    middle.set_title(
        "Agreement of two layers' choices\n"
        "upper left: mutual information; lower right: same number",
        fontsize="medium",
    )
    figure.colorbar(image, ax=middle, shrink=0.8, label="agreement (0: none, 1: full)")

    for right in more:
        # Nine markers beside eight colours: no pair of them comes twice.
        styles = zip(cycle(OKABE_ITO), cycle("os^Dv<>pX"))
        for (name, label), (color, marker) in zip(summary["by_label"].items(), styles):
            values = [label["explained"].get(layer["name"], math.nan) for layer in layers]
            right.plot(positions, values, color=color, marker=marker, label=name)
        _by_layer(right, names, "What a label says about the choice of expert",
                  "mutual information / entropy of the choice")  # fmt: skip
    return figure


def _by_layer(axes: Axes, names: Sequence[str], title: str, ylabel: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("encoder layer")
    axes.set_ylabel(ylabel)
    axes.set_ylim(-0.02, 1.05)
    _name_ticks(axes, range(len(names)), names)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4)
    axes.legend(fontsize="small")


def shuffle_figure(shuffle: Mapping[str, Any]) -> Figure:
    """CER with shuffled experts, of all layers and of each alone.

    Args:
        shuffle: ``shuffle`` of :meth:`espnet_moe_share.usage.measure.Measured.summary`.
    """
    rates = shuffle["shuffled_cer"]
    paths = [path for path in rates if path != "all"]
    figure = new_figure(max(5.5, 2.5 + 0.5 * len(paths)), 4.0)
    axes = figure.subplots()
    axes.axhline(shuffle["cer"], color="black", linestyle="--", linewidth=1,
                 label=f"not shuffled: {shuffle['cer']:.1f}")  # fmt: skip
    for position, path in enumerate([*paths, "all"]):
        color = OKABE_ITO[5] if path == "all" else OKABE_ITO[0]
        axes.bar(position, np.mean(rates[path]), 0.7, color=color, alpha=0.35)
        axes.plot([position] * len(rates[path]), rates[path], "o", color=color, markersize=4)
        axes.annotate(f"{np.mean(rates[path]):.1f}", (position, max(rates[path])), (0, 4),
                      textcoords="offset points", ha="center", fontsize="small")  # fmt: skip
    _name_ticks(axes, range(len(paths) + 1), [*layer_names(paths), "all"])
    axes.set_xlabel("encoder layer whose experts are shuffled")
    axes.set_ylabel("CER of greedy CTC (%)")
    axes.set_title(
        "Error rate with shuffled experts\n(bars: mean; dots: "
        f"{len(rates['all'])} random derangements; {shuffle['characters']:,} characters)",
        fontsize="medium",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", fontsize="small")
    axes.margins(y=0.15)
    return figure
