"""The picture of sharing: its rows, its command, and the files of docs/sharing.md."""

import re
from pathlib import Path

import pytest
import yaml
from tiny_models import EXPERTS, SHARING, config, encoder

from espnet_moe_share.bin import draw_sharing
from espnet_moe_share.sharing.figure import PartRow, part_rows, sharing_figure

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_the_main_system() -> None:
    layers = list(encoder(experts=EXPERTS, sharing=SHARING).encoders)
    rows = {row.label: row for row in part_rows(layers)}
    halves, own = ((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))
    assert {label: row.groups for label, row in rows.items()} == {
        "self_attn": halves,
        "feed_forward.router": own,
        "feed_forward.experts": halves,
        "feed_forward_macaron": halves,
        "conv_module: pointwise_conv1, depthwise_conv, pointwise_conv2": halves,
        "conv_module.norm": own,
        "norm_{ff,mha,ff_macaron,conv,final}": own,
    }
    assert next(iter(rows)) == "self_attn" and list(rows)[-1].startswith("norm_")
    # E (H D + H + D H + D) with E 4, D 8, H 12; a quarter of the layers' own is stored in halves
    experts = 4 * (12 * 8 + 12 + 8 * 12 + 8)
    assert (rows["feed_forward.experts"].stored, rows["feed_forward.experts"].unshared) == (
        2 * experts,
        4 * experts,
    )
    stored = sum(parameter.numel() for parameter in {p for x in layers for p in x.parameters()})
    assert sum(row.stored for row in rows.values()) == stored


def test_rows_of_one_shared_factor_and_of_a_dense_encoder() -> None:
    low_rank = [{"modules": ["self_attn.linear_*"], "rank": 2}]
    sharing = [{"modules": ["self_attn.*.up.weight"], "groups": [[1, 2]]}]
    layers = list(encoder(low_rank=low_rank, sharing=sharing).encoders)
    rows = {row.label: row for row in part_rows(layers)}
    assert rows["self_attn: linear_{q,k,v,out,pos}.up.weight"].groups == ((0,), (1, 2), (3,))
    assert rows["self_attn: the rest"].stored == rows["self_attn: the rest"].unshared
    assert [row for row in part_rows(list(encoder().encoders)) if row.stored != row.unshared] == []


def test_figure_has_a_letter_for_every_layer_of_a_group() -> None:
    layers = list(encoder(experts=EXPERTS, sharing=SHARING).encoders)
    axes = sharing_figure(layers, "Main system").axes[0]
    rows: list[PartRow] = part_rows(layers)
    letters = [text.get_text() for text in axes.texts]
    shared = sum(len(row.groups) == 2 for row in rows)
    assert letters == ["A", "A", "B", "B"] * shared
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "3"]
    assert len(axes.get_yticks()) == len(rows)
    assert axes.get_title().startswith("Main system\n")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(config()))
    draw_sharing.main([str(file), "--output", str(tmp_path / "sharing")])
    assert capsys.readouterr().out.count(": written\n") == 2
    assert (tmp_path / "sharing.png").stat().st_size > (tmp_path / "train.yaml").stat().st_size
    assert (tmp_path / "sharing.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(SystemExit, match=r"error: .*none\.yaml: no such file"):
        draw_sharing.main([str(tmp_path / "none.yaml"), "--output", str(tmp_path / "sharing")])
    file.write_text(yaml.safe_dump({"encoder": "rnn", "model_conf": {"ctc_weight": 1.0}}))
    with pytest.raises(SystemExit, match="its encoder has no stack of layers"):
        draw_sharing.main([str(file), "--output", str(tmp_path / "sharing")])


def test_pictures_of_the_page_are_those_of_its_command() -> None:
    page = (ROOT / "docs/sharing.md").read_text("utf-8")
    shown = set(re.findall(r"\]\(figures/(\S+)\.png\)", page))
    (loop,) = re.findall(r"^for config in (.*?); do", page, re.MULTILINE | re.DOTALL)
    patterns = loop.replace("\\\n", " ").split()
    assert {path.stem for pattern in patterns for path in ROOT.glob(pattern)} == shown
    assert {path.stem for path in (ROOT / "docs/figures").glob("*.png")} == shown
