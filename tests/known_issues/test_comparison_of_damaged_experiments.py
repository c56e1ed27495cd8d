"""compare ended in a traceback where a config.yaml or the kept count of parameters was damaged."""

import json
from pathlib import Path

import pytest

from espnet_moe_share.comparison.experiment import count_parameters, training_options
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.task import ASRTask


def test_config_that_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("encoder: [conformer\n")
    with pytest.raises(ConfigurationError, match=r"config\.yaml: no YAML: [^\n]+$"):
        training_options(tmp_path)


@pytest.mark.parametrize("kept", ["{", "[]", "{}", '{"model": []}'])
def test_count_is_made_anew(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch, teacher: dict[str, str]
) -> None:
    built = ASRTask.build_model_from_file(*teacher.values())
    monkeypatch.setattr(ASRTask, "build_model_from_file", lambda *files: built)
    (tmp_path / "model.pth").touch()
    (tmp_path / ".parameters.json").write_text(kept)
    found = count_parameters(tmp_path, "model.pth")
    assert found.total_params == sum(p.numel() for p in built[0].parameters())
    assert json.loads((tmp_path / ".parameters.json").read_text())["parameters"]
