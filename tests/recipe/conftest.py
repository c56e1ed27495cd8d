"""One tiny teacher and student, made by the recipe itself, for all tests of this folder."""

from pathlib import Path

import pytest
from tiny_recipe import Recipe, Trained, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Trained:
    recipe = Recipe.make(tmp_path_factory.mktemp("recipe"), corpus)
    done = recipe.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return Trained(recipe, done.stdout, done.stderr)
