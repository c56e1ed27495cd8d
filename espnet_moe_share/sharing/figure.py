"""Picture of which layers use which weights."""

import os
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from espnet_moe_share.plotting import OKABE_ITO, category_colors, new_figure
from espnet_moe_share.sharing.summary import summarize_sharing

_OWN = "#E4E4E4"
_MOST_NAMES = 4  # of parts without sharing that a label lists
_FILLED = 0.9  # of a row's height, by its cells
_WIDTH_OF_LABELS = 38  # letters


@dataclass(frozen=True)
class PartRow:
    """What a part of a layer holds for the same groups of layers; a row of the figure.

    Attributes:
        label: The part and what of it, below a layer.
        groups: Layers of each group, ascending; a group of one layer shares with none.
        stored: Parameters that are stored.
        unshared: Parameters if every layer had its own.
    """

    label: str
    groups: tuple[tuple[int, ...], ...]
    stored: int
    unshared: int


def part_rows(layers: Sequence[torch.nn.Module]) -> list[PartRow]:
    """Sort all that the layers hold by part and by who shares it.

    Args:
        layers: Encoder layers, ours or ESPnet's, with the same parts.

    Returns:
        In the order of the layer's parts; norms of the layer itself in one row, at its end.
    """
    order = [path for path, _ in layers[0].named_parameters()]
    rows: dict[tuple[str, tuple[tuple[int, ...], ...]], list[str]] = defaultdict(list)
    for parts in summarize_sharing(layers):
        for path in parts.modules:
            top = path.partition(".")[0]
            rows["norm" if top.startswith("norm") else top, parts.groups].append(path)
    split = {part for part, _ in rows if sum(part == other for other, _ in rows) > 1}

    def place(row: tuple[tuple[str, tuple[tuple[int, ...], ...]], list[str]]) -> tuple[bool, int]:
        (part, _), paths = row
        starts = [n for n, path in enumerate(order) if any(_is_below(path, p) for p in paths)]
        return part == "norm", min(starts, default=len(order))

    return [
        PartRow(
            _label(part, _alike(paths, order), groups, part in split),
            groups,
            *_count(layers, paths),
        )
        for (part, groups), paths in sorted(rows.items(), key=place)
    ]


def _alike(paths: Sequence[str], order: Sequence[str]) -> list[str]:
    """Beside tensors, modules of a single tensor are named by it: ``linear_pos.up.weight``."""
    if not any(path in order for path in paths):
        return list(paths)
    below = [[tensor for tensor in order if _is_below(tensor, path)] for path in paths]
    return [tensors[0] if len(tensors) == 1 else path for path, tensors in zip(paths, below)]


def _is_below(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")


def _count(layers: Sequence[torch.nn.Module], paths: Sequence[str]) -> tuple[int, int]:
    tensors = [
        tensor
        for layer in layers
        for path, tensor in layer.named_parameters()
        if any(_is_below(path, part) for part in paths)
    ]
    unique = {id(tensor): tensor.numel() for tensor in tensors}
    return sum(unique.values()), sum(tensor.numel() for tensor in tensors)


def _label(part: str, paths: Sequence[str], groups: Sequence[Sequence[int]], is_split: bool) -> str:
    if len(paths) == 1:
        return paths[0]
    if part == "norm":
        return _shorten(paths)
    below = [path.removeprefix(f"{part}.") for path in paths]
    if is_split and all(len(group) == 1 for group in groups) and len(paths) > _MOST_NAMES:
        return f"{part}: the rest"
    return f"{part}: {_shorten(below)}"


def _shorten(names: Sequence[str]) -> str:
    """``a_{x,y}.b`` for ``a_x.b`` and ``a_y.b``; names with nothing in common as they are."""
    start = os.path.commonprefix(list(names))  # noqa: RUF071  (letters are meant)
    backwards = [name[len(start) :][::-1] for name in names]
    end = os.path.commonprefix(backwards)[::-1]  # noqa: RUF071
    middles = [name[len(start) : len(name) - len(end)] for name in names]
    if len(start) < 3 or any("." in middle for middle in middles):
        return ", ".join(names)
    return f"{start}{{{','.join(middles)}}}{end}"


def sharing_figure(layers: Sequence[torch.nn.Module], title: str) -> Figure:
    """Draw a row for each part, a column for each layer; one letter and colour, one set of weights.

    Args:
        layers: Encoder layers, ours or ESPnet's, with the same parts.
        title: Whose layers they are.
    """
    rows = part_rows(layers)
    labels = ["\n".join(textwrap.wrap(row.label, _WIDTH_OF_LABELS)) for row in rows]
    lines = [label.count("\n") + 1 for label in labels]
    figure = new_figure(6.2 + 0.34 * len(layers), 1.7 + 0.16 * sum(lines) + 0.22 * len(rows))
    axes = figure.subplots()
    edges = [0.0]
    for row, number in zip(rows, lines):
        edges.append(edges[-1] + 0.6 + 0.4 * number)
        _draw_row(axes, row, edges[-2], edges[-1] - edges[-2])
    middles = [top + _FILLED * (bottom - top) / 2 for top, bottom in pairwise(edges)]
    axes.set_yticks(middles, labels, fontsize="small")
    axes.set_xticks(range(len(layers)))
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(edges[-1], 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("encoder layer")
    axes.set_ylabel("part of a layer")
    stored, unshared = (sum(getattr(row, key) for row in rows) for key in ("stored", "unshared"))
    axes.set_title(
        f"{title}\n{stored / 1e6:.2f} M parameters stored, "
        f"{unshared / 1e6:.2f} M if every layer had its own",
        fontsize="medium",
    )
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(
        middles, [_millions(row) for row in rows], fontsize="small", family="monospace"
    )
    numbers.tick_params(length=0)
    numbers.spines[:].set_visible(False)
    numbers.set_ylabel("stored parameters")
    shared = Patch(facecolor=OKABE_ITO[0], label="same letter in a row: the same weights")
    own = Patch(facecolor=_OWN, label="no letter: weights of this layer alone")
    figure.legend(handles=[shared, own], loc="outside lower center", ncols=2, frameon=False,
                  fontsize="small")  # fmt: skip
    return figure


def _millions(row: PartRow) -> str:
    digits = 2 if row.unshared >= 1e5 else 3
    if row.stored == row.unshared:
        return f"{row.stored / 1e6:6.{digits}f} M"
    return f"{row.stored / 1e6:6.{digits}f} M (of {row.unshared / 1e6:.{digits}f} M)"


def _draw_row(axes: Axes, row: PartRow, top: float, height: float) -> None:
    shared = [group for group in row.groups if len(group) > 1]
    colors = category_colors(max(len(shared), 1))
    for group in row.groups:
        number = shared.index(group) if group in shared else None
        red, green, blue, _ = to_rgba(_OWN if number is None else colors(number))
        for layer in group:
            axes.barh(
                top,
                0.94,
                _FILLED * height,
                left=layer - 0.47,
                align="edge",
                color=(red, green, blue),
            )
            if number is not None:
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                axes.text(
                    layer,
                    top + _FILLED * height / 2,
                    _letter(number),
                    ha="center",
                    va="center_baseline",
                    fontsize="small",
                    color="white" if dark else "black",
                )


def _letter(number: int) -> str:
    """A to Z, then A2 and so on."""
    turn, letter = divmod(number, 26)
    return chr(ord("A") + letter) + (str(turn + 1) if turn else "")
