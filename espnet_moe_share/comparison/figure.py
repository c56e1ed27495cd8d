"""One figure of what the table says: a row of bars for each system, a panel for each quantity."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from espnet_moe_share.comparison.bootstrap import Difference
from espnet_moe_share.comparison.sclite import SCORES, Errors, total
from espnet_moe_share.comparison.system import System, set_labels
from espnet_moe_share.plotting import OKABE_ITO, new_figure

_COLUMNS = 3
_PARTS = {
    "encoder layers": lambda p: p.encoder_layer_params,
    "rest of encoder": lambda p: p.encoder_params - p.encoder_layer_params,
    "rest of model": lambda p: p.total_params - p.encoder_params,
}
_PARTS_OF_ERRORS = {
    "substitutions": lambda errors: errors.substitutions,
    "deletions": lambda errors: errors.deletions,
    "insertions": lambda errors: errors.insertions,
}


def comparison_figure(
    systems: Sequence[System], differences: Mapping[tuple[str, str], Difference]
) -> Figure:
    """Draw the systems side by side.

    Args:
        systems: The first is on top.
        differences: Of two systems, from :func:`espnet_moe_share.bin.compare.compare`; may be {}.
    """
    labels = set_labels(systems)
    panels: list[Callable[[Axes], None]] = [
        partial(_rates, systems=systems, labels=labels, name=name, score=score)
        for score in ("cer", "wer")
        for name in dict.fromkeys(name for names in labels for name in names)
        if any(score in _errors(*pair, name) for pair in zip(systems, labels))
    ]
    panels += [
        lambda axes: _parameters(axes, systems),
        lambda axes: _numbers(
            axes,
            systems,
            [system.model_bytes / 1e6 for system in systems],
            ("Model file", "size (MB)", "{:.2f}"),
        ),
        lambda axes: _numbers(
            axes,
            systems,
            [system.real_time_factor for system in systems],
            ("Decoding time", "real-time factor (s / s of speech)", "{:.3f}"),
        ),
        lambda axes: _numbers(
            axes,
            systems,
            [s.training.seconds / 60 if s.training else None for s in systems],
            ("Training time", "training and validation (min)", "{:.1f}"),
        ),
    ]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    heights = [1.4 + 0.35 * max(len(systems), 2)] * rows
    heights += [1.0 + 0.55 * len(differences)] if differences else []
    names = 0.085 * max(len(system.name) for system in systems)
    figure = new_figure(0.5 + names + 3.3 * columns, 0.3 + sum(heights))
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[row, column])
        panel(axes)
        axes.set_xlim(left=0)
        axes.tick_params(labelleft=column == 0)
    if differences:
        _differences(figure.add_subplot(grid[rows, :]), systems, differences)
    figure.suptitle("Systems compared: errors, size and time")
    return figure


def _errors(system: System, names: Mapping[str, str], name: str) -> Mapping[str, Errors]:
    """``cer`` and so on -> errors of the whole set; {} if the system has not decoded it."""
    decoded = system.sets.get(names.get(name, ""))
    return {} if decoded is None else {score: total(each) for score, each in decoded.errors.items()}


def _prepare(axes: Axes, systems: Sequence[System], title: str, label: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(label)
    axes.set_yticks(range(len(systems)), [system.name for system in systems])
    axes.set_ylim(len(systems) - 0.5, -0.5)
    # Room for the number behind the bar, which the edges of bars would take.
    axes.use_sticky_edges = False
    axes.margins(x=0.25)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)


def _stack(axes: Axes, row: int, parts: Mapping[str, float], text: str, labelled: bool) -> None:
    left = 0.0
    for (name, value), color in zip(parts.items(), OKABE_ITO):
        axes.barh(row, value, 0.6, left=left, color=color, label=name if labelled else None)
        left += value
    axes.annotate(text, (left, row), (4, 0), textcoords="offset points", va="center")


def _legend(axes: Axes) -> None:
    axes.legend(fontsize="x-small", ncols=3, frameon=False, loc="lower center",
                bbox_to_anchor=(0.5, 0.99), columnspacing=0.8, handlelength=1.0)  # fmt: skip
    axes.set_title(axes.get_title(), fontsize="medium", pad=18)


def _rates(
    axes: Axes,
    systems: Sequence[System],
    labels: Sequence[Mapping[str, str]],
    name: str,
    score: str,
) -> None:
    _prepare(axes, systems, f"{SCORES[score]} of {name}", f"{SCORES[score]} (%)")
    labelled = True
    for row, (system, names) in enumerate(zip(systems, labels)):
        errors = _errors(system, names, name).get(score)
        if errors is None or not errors.tokens:
            axes.annotate("not scored", (0, row), (4, 0), textcoords="offset points", va="center")
            continue
        parts = {key: 100 * part(errors) / errors.tokens for key, part in _PARTS_OF_ERRORS.items()}
        _stack(axes, row, parts, f"{errors.rate:.1f}", labelled)
        labelled = False
    _legend(axes)


def _parameters(axes: Axes, systems: Sequence[System]) -> None:
    _prepare(axes, systems, "Parameters", "millions, shared ones counted once")
    for row, system in enumerate(systems):
        parts = {name: part(system.parameters) / 1e6 for name, part in _PARTS.items()}
        _stack(axes, row, parts, f"{system.parameters.total_params / 1e6:.2f}", row == 0)
    _legend(axes)


def _numbers(
    axes: Axes,
    systems: Sequence[System],
    values: Sequence[float | None],
    texts: tuple[str, str, str],
) -> None:
    title, label, form = texts
    _prepare(axes, systems, title, label)
    for row, value in enumerate(values):
        text = "not known" if value is None else form.format(value)
        _stack(axes, row, {} if value is None else {"": value}, text, False)


def _differences(
    axes: Axes, systems: Sequence[System], differences: Mapping[tuple[str, str], Difference]
) -> None:
    first, second = (system.name for system in systems)
    rows = list(differences)
    for row, key in enumerate(rows):
        value = differences[key]
        spread = [[value.observed - value.low], [value.high - value.observed]]
        axes.errorbar(value.observed, row, xerr=spread, fmt="o", color=OKABE_ITO[0], capsize=4)
        text = f"{value.observed:+.1f} [{value.low:+.1f}, {value.high:+.1f}]"
        axes.annotate(text, (value.observed, row), (0, 6), textcoords="offset points",
                      ha="center", fontsize="small")  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), [f"{SCORES[score]} of {name}" for name, score in rows])
    axes.set_ylim(len(rows) - 0.5, -0.7)
    ends = [0.0, *(end for value in differences.values() for end in (value.low, value.high))]
    room = 0.15 * (max(ends) - min(ends)) or 1.0
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Difference of the two, with 95 % interval over utterances", fontsize="medium")
    axes.set_xlabel(f"{second} minus {first} (percentage points)")
