"""Stage ``create_dataset``: the data directories of the mini corpus, made as egs2 makes them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet3.components.data.dataset_builder import DatasetBuilder

EGS2 = Path(__file__).resolve().parents[4] / "egs2/aishell/asr1"
SETS = ("mini_train", "mini_dev", "mini_test")


class MiniBuilder(DatasetBuilder):
    """Calls the ``local/data_mini.sh`` of ``egs2/aishell/asr1``, which fetches and prepares.

    Every method takes the settings of ``create_dataset`` in the training's YAML:

    Args:
        recipe_dir: Where ``downloads/`` and ``data/`` go.
        options: Options of the script, such as ``{gcin_voice: /usr/share/gcin-voice}``.
    """

    def is_source_prepared(self, recipe_dir: str, **settings: Any) -> bool:
        """Whether there is nothing left to fetch; the script that builds fetches as well."""
        return True

    def prepare_source(self, recipe_dir: str, **settings: Any) -> None:
        """Do nothing; see :meth:`is_source_prepared`."""

    def is_built(self, recipe_dir: str, **settings: Any) -> bool:
        """Whether all three data directories are there; the script makes each appear as a whole."""
        return all((Path(recipe_dir) / "data" / name / "text").is_file() for name in SETS)

    def build(
        self, recipe_dir: str, options: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """Make ``data/mini_{train,dev,test}``; what the script says goes to the terminal.

        Raises:
            subprocess.CalledProcessError: The script failed.
        """
        root = Path(recipe_dir).resolve()
        command = ["local/data_mini.sh", "--downloads", str(root / "downloads")]
        command += ["--data_dir", str(root / "data")]
        for name, value in (options or {}).items():
            command += [f"--{name}", str(value)]
        # path.sh puts the environment's Python first, as in egs2.
        subprocess.run(
            ["bash", "-c", '. ./path.sh && "$@"', "data_mini.sh", *command], cwd=EGS2, check=True
        )
