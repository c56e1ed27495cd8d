"""A checkpoint with the right names and other shapes ended in a page of traceback."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import build, config, dense_config, merge, save

from espnet_moe_share.errors import CheckpointMismatchError
from espnet_moe_share.task import ASRTask


@pytest.mark.parametrize(
    ("make", "name", "shapes"),
    [
        (config, "feed_forward.experts.w_1", ("(4, 12, 8)", "(4, 16, 8)")),
        (dense_config, "feed_forward.w_1.weight", ("[12, 8]", "[16, 8]")),
    ],
)
def test_refused_in_one_line(tmp_path: Path, make: Any, name: str, shapes: tuple[str, str]) -> None:
    settings = make()
    paths = save(tmp_path, settings, build(settings))
    wider = tmp_path / "wider.yaml"
    wider.write_text(yaml.safe_dump(merge(settings, {"encoder_conf": {"linear_units": 16}})))
    with pytest.raises(CheckpointMismatchError) as refused:
        ASRTask.build_model_from_file(wider, paths["teacher_model_file"])
    message = str(refused.value)
    assert "\n" not in message
    assert name in message
    assert all(shape in message for shape in shapes)
    assert "use the config.yaml that lies beside the checkpoint" in message


def test_student_through_espnets_own_task(tmp_path: Path) -> None:
    from espnet2.tasks.asr import ASRTask as ESPnetASRTask

    settings = config()
    paths = save(tmp_path, settings, build(settings))
    wider = tmp_path / "wider.yaml"
    wider.write_text(yaml.safe_dump(merge(settings, {"encoder_conf": {"linear_units": 16}})))
    with pytest.raises(CheckpointMismatchError, match="other shapes"):
        ESPnetASRTask.build_model_from_file(wider, paths["teacher_model_file"])
