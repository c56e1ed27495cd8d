"""One tiny teacher and student, made by the recipe itself, for all tests of this folder."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from tiny_recipe import Recipe, Trained, make_corpus


@pytest.fixture(scope="session")
def in_common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of ``-n 2`` have."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = folder / "in_common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def corpus(in_common: Path) -> Path:
    folder = in_common / "corpus"
    with open(in_common / "corpus.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder if folder.exists() else make_corpus(folder)


def _train(root: Path, corpus: Path) -> dict[str, str]:
    recipe = Recipe.make(root, corpus)
    done = recipe.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return {"directory": str(recipe.directory), "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, in_common: Path) -> Trained:
    """A copy, for each process to work in, of what the first that comes here has trained."""
    record = in_common / "trained.json"
    with open(in_common / "trained.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            record.write_text(json.dumps(_train(tmp_path_factory.mktemp("trained"), corpus)))
    original = json.loads(record.read_text())
    recipe = Recipe(Path(original["directory"]), corpus)
    made = [
        entry.name
        for entry in recipe.directory.iterdir()
        if entry.is_dir() and not entry.is_symlink() and entry.name != "tiny"
    ]
    copied = recipe.clone(tmp_path_factory.mktemp("recipe") / "recipe", *made)
    return Trained(copied, original["stdout"], original["stderr"])
