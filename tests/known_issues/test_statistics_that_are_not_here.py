"""Outside the recipe's directory expert usage ended in a traceback of FileNotFoundError."""

from pathlib import Path

import pytest
import tiny_models

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.task import ASRTask


def test_named_with_what_to_do(tmp_path: Path) -> None:
    settings = tiny_models.config()
    model = tiny_models.build(settings)
    settings |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": "exp/stats.npz"}}
    files = tiny_models.save(tmp_path, settings, model)
    said = r"^exp/stats\.npz, which .*config\.yaml names, is not here; run this in the directory of"
    with pytest.raises(ConfigurationError, match=said):
        ASRTask.build_model_from_file(*files.values())
