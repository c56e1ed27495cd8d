"""An experiment's config.yaml names the YAML that the training was started with.

Its own values are what was trained. They were overridden by that YAML's where it was found, and
reading ended where it was not.
"""

from pathlib import Path

import pytest
import yaml
from tiny_models import config

from espnet_moe_share.configuration import read_arguments


@pytest.mark.parametrize("is_there", [True, False])
def test_values_are_its_own(tmp_path: Path, is_there: bool) -> None:
    origin = tmp_path / "conf.yaml"
    if is_there:
        origin.write_text(yaml.safe_dump({"encoder_conf": {"linear_units": 999}, "max_epoch": 7}))
    settings = config(config=str(origin), max_epoch=3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    arguments = read_arguments(tmp_path / "config.yaml")
    assert arguments.encoder_conf == settings["encoder_conf"]
    assert arguments.max_epoch == 3
