"""ESPnet's ``input_layer: null``: a linear layer in place of the subsampling, or nothing at all.

The check of the subsampling called the former with a mask, and took the latter for another
subsampling than that of ``input_layer: linear``.
"""

from pathlib import Path

import pytest
from tiny_models import MELS, batch, build, encoder_config, save


@pytest.mark.parametrize(
    ("output_size", "input_layer"), [(8, None), (MELS, None), (MELS, "linear"), (8, "linear")]
)
def test_accepted(tmp_path: Path, output_size: int, input_layer: str | None) -> None:
    size = {"output_size": output_size}
    teacher = encoder_config(
        "transformer", model="espnet", encoder_conf={**size, "input_layer": input_layer}
    )
    files = save(tmp_path, teacher, build(teacher))
    student = build(
        encoder_config(
            "moe_share_transformer",
            encoder_conf={**size, "input_layer": None},
            model_conf={"distill_weight": 1.0, **files},
        )
    )
    assert student.train()(**batch())[1]["loss_distill"] > 0
