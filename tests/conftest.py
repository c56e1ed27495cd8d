"""What all tests share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Recipes first: with ``-n 2`` a long file must not be what one process is left with.

    One process trains the tiny recipe in the first file. The files that come next do without, so
    that the other process has no need to wait for it.
    """
    needs_it = {item.path for item in items if "trained" in getattr(item, "fixturenames", ())}

    def rank(item: pytest.Item) -> int:
        if item.path.parent.name != "recipe":
            return 3
        if item.path.name == "test_all_stages.py":
            return 0
        return 2 if item.path in needs_it else 1

    items.sort(key=rank)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of a child process that finds the package in this checkout."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Modules and tensors made in the test are float64, so that equal means equal."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def unchanged_globals() -> Iterator[None]:
    """ESPnet's main() changes settings of the whole process."""
    import torch

    root = logging.getLogger()
    before = root.level, list(root.handlers), torch.backends.cudnn.deterministic
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    torch.backends.cudnn.deterministic = before[2]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a dense teacher with statistics of its own, as ``model_conf`` names them."""
    import numpy as np
    import tiny_models

    folder = tmp_path_factory.mktemp("teacher")
    rng = np.random.default_rng(0)
    mean, std = rng.normal(-8, 2, tiny_models.MELS), rng.uniform(1, 3, tiny_models.MELS)
    np.savez(
        folder / "feats_stats.npz",
        count=np.array(100.0),
        sum=100 * mean,
        sum_square=100 * (std**2 + mean**2),
    )
    settings = tiny_models.dense_config(normalize="global_mvn")
    settings["normalize_conf"] = {"stats_file": str(folder / "feats_stats.npz")}
    model = tiny_models.randomize(tiny_models.build(settings, seed=11))
    return tiny_models.save(folder, settings, model)


@pytest.fixture(scope="session")
def student_settings(teacher: dict[str, str]) -> dict[str, Any]:
    """config.yaml of a student of that teacher with every loss switched on."""
    import tiny_models

    return tiny_models.config(
        **tiny_models.SPECAUG,
        model_conf={
            "balance_weight": 0.01,
            "router_z_weight": 0.001,
            "distill_weight": 0.1,
            **teacher,
        },
    )
