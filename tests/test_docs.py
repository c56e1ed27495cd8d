"""The pages hold together: links lead somewhere, and the README names every page."""

import re
from pathlib import Path
from typing import Any

import pytest

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.sharing.layers import SharedLayers
from espnet_moe_share.sharing.rules import parse_rules

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md")
)


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_readme_lists_every_page() -> None:
    listed = links(ROOT / "README.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in listed, page.name


MISTAKES: list[list[dict[str, Any]]] = [
    [{"modules": ["self_atn"], "groups": 2}],
    [{"modules": ["norm_ff"], "except": ["norm*"], "groups": 2}],
    [{"modules": ["*"], "groups": []}],
    [{"modules": ["*"], "groups": 5}],
    [{"modules": ["*"], "groups": [[0, 12]]}],
    [{"modules": ["*"], "groups": [[0, 3], [3, 4]]}],
    [{"modules": ["*"], "groups": [[0, 3]], "order": "cyclic"}],
    [{"modules": ["*"], "groups": 2}, {"modules": ["norm_ff"], "groups": 1}],
    [{"modules": ["conv"], "groups": 6}],
    [{"module": ["*"], "groups": 2}],
]


def test_messages_of_the_page_on_sharing() -> None:
    import torch

    def layer(number: int) -> torch.nn.Module:
        parts = {"norm_ff": torch.nn.LayerNorm(2), "conv": torch.nn.Linear(2, 3 + number)}
        return torch.nn.ModuleDict(parts)

    page = (ROOT / "docs/sharing.md").read_text("utf-8")
    documented = re.findall(r"^\| `(sharing\[\d\].+?)` \|", page, re.MULTILINE)
    assert len(documented) == len(MISTAKES)
    for message, rules in zip(documented, MISTAKES):
        pattern = ".*".join(map(re.escape, message.split("...")))
        with pytest.raises(ConfigurationError, match=f"^{pattern}"):
            SharedLayers([layer(number) for number in range(12)], parse_rules(rules, 12))
