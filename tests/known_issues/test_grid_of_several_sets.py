"""The grid's table ended in a KeyError, or did not say which row is of which test set."""

from pathlib import Path

import pytest


def test_each_row_names_its_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "local"))
    import grid_table

    parameters = {"encoder_layer_params": 1, "total_params": 2}
    common = {"system": "a_b", "parameters": parameters, "expert_usage": None}
    results = [
        {**common, "seed": 1, "cer": {"dev": 1.0, "test": 2.0}},
        {**common, "seed": 2, "cer": {"test": 4.0}},
    ]
    rows = [line.split("|")[1:6] for line in grid_table.table(results).splitlines()[2:]]
    assert rows == [
        ["a b, dev", "1", "2", "1", "1.0"],
        ["a b, test", "1", "2", "1 2", "3.0 ± 1.4 (2.0, 4.0)"],
    ]
