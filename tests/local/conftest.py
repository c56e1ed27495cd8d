"""A recipe's directory in which scripts can be called without a corpus or a training."""

import shutil
from pathlib import Path

import pytest
from driver_data import RECORDER

ROOT = Path(__file__).parents[2]
# What a run of the recipe in this checkout leaves there.
LEFT = ("data", "dump", "exp", "downloads", "asr.sh", "pyscripts", "scripts", "steps", "utils")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's directory in a copy of the repository's scripts."""
    shutil.copytree(
        ROOT / "local", tmp_path / "local", ignore=shutil.ignore_patterns("__pycache__")
    )
    directory = tmp_path / "egs2" / "aishell" / "asr1"
    own = ROOT / "egs2" / "aishell" / "asr1"
    shutil.copytree(own, directory, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
    (tmp_path / "conf").mkdir()
    for name in ("teacher", "student"):
        (tmp_path / "conf" / f"{name}.yaml").write_text("encoder: conformer\n")
    return directory


@pytest.fixture
def recorded(recipe: Path) -> Path:
    """The same with a driver that only notes its calls, and nothing to compare at the end."""
    (recipe / "local" / "asr.sh").write_text(RECORDER)
    package = recipe.parents[2] / "espnet_moe_share"
    (package / "bin").mkdir(parents=True)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "espnet_moe_share" / name, package)
    (package / "bin" / "compare.py").write_text("import sys; print(sys.argv[1:])\n")
    return recipe
