"""A teacher whose encoder has no ``ctc_trim`` (all but the Conformer) raised AttributeError."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import ENCODER, batch, build, config, dense_config, save

SIZE = {key: ENCODER[key] for key in ("output_size", "attention_heads", "linear_units")}


@pytest.mark.parametrize(
    ("name", "encoder_conf"),
    [
        ("transformer", {**SIZE, "num_blocks": 1, "input_layer": "conv2d6"}),
        (
            "e_branchformer",
            {**SIZE, "num_blocks": 1, "input_layer": "conv2d6", "cgmlp_linear_units": 16},
        ),
        (
            "branchformer",
            {
                **{key: SIZE[key] for key in ("output_size", "attention_heads")},
                "num_blocks": 1,
                "input_layer": "conv2d6",
                "cgmlp_linear_units": 16,
            },
        ),
    ],
)
def test_teacher(tmp_path: Path, name: str, encoder_conf: dict[str, Any]) -> None:
    settings = dense_config()
    settings.update(encoder=name, encoder_conf=encoder_conf)
    files = save(tmp_path, settings, build(settings))
    student = build(config(model_conf={"distill_weight": 1.0, **files})).train()
    _, stats, _ = student(**batch())
    assert stats["loss_distill"] > 0
