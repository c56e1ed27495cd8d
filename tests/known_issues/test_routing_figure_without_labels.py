"""The routing figure had an empty panel without labels, and left out the ninth kind of them."""

import pytest

from espnet_moe_share.usage.figures import routing_figure

LAYER = {
    "name": "encoders.0.feed_forward",
    "num_experts": 4,
    "load_entropy": 1.0,
    "routing_entropy": 0.5,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kinds", [0, 9])
def test_panels_and_lines(kinds: int) -> None:
    by_label = {f"utt2x{n}": {"explained": {LAYER["name"]: 0.1}} for n in range(kinds)}
    figure = routing_figure({"layers": [LAYER], "pairs": [], "by_label": by_label})
    panels = [axes for axes in figure.axes if axes.get_ylabel().startswith("mutual")]
    assert [len(axes.lines) for axes in panels] == [kinds] * bool(kinds)
