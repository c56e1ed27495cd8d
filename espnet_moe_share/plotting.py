"""What all figures have in common: colours, and files that are there as a whole.

Figures are made without pyplot, which keeps state of the whole process and looks for a display.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from espnet_moe_share.files import whole_file

# Okabe & Ito 2008, "Color universal design": distinct for all common kinds of colour blindness.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SHARES = "cividis"  # for shares and other numbers from low to high


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches whose parts do not overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def category_colors(number: int) -> Colormap:
    """As many colours as there are categories; beyond eight, steps from dark to light."""
    if number <= len(OKABE_ITO):
        return ListedColormap(OKABE_ITO[:number])
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(number)


def figure_files(name: Path) -> Sequence[Path]:
    """Files that :func:`save` writes."""
    return [name.with_name(f"{name.name}.{kind}") for kind in ("png", "pdf")]


def save(figure: Figure, name: Path) -> Sequence[Path]:
    """Write ``name``.png and ``name``.pdf.

    Raises:
        OSError: They cannot be written.
    """
    files = figure_files(name)
    for file in files:
        with whole_file(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], dpi=150)
    return files
