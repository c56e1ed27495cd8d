"""What a reader of a results table must know of an experiment and its environment."""

import contextlib
import datetime
import functools
import importlib
import importlib.metadata
import io
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from command_line import UserError, require_files, written_whole

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, each shared one counted once."""

    encoder_layer_params: int
    encoder_params: int
    total_params: int


def count_parameters(experiment: Path, model: str) -> Parameters:
    """Count the parameters of a trained model; the count is kept beside it.

    Args:
        experiment: directory with config.yaml.
        model: file name of the model in it.
    """
    file = experiment / model
    if not file.is_file():
        raise UserError(f"{file}: no such model")
    status = file.stat()
    identity = [status.st_size, status.st_mtime_ns]
    cache = experiment / ".parameters.json"
    if cache.is_file():
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["model"] == identity:
            return Parameters(**kept["parameters"])

    # ESPnet says on stderr that optional packages are missing; errors are exceptions.
    with contextlib.redirect_stderr(io.StringIO()):
        from espnet_moe_share.parameters import count_parameters as count
        from espnet_moe_share.task import ASRTask

        built, _ = ASRTask.build_model_from_file(experiment / "config.yaml", file, "cpu")
    counts = count(built)
    parameters = Parameters(**{name: int(counts[name]) for name in Parameters.__annotations__})
    with written_whole(cache) as stream:
        json.dump({"model": identity, "parameters": asdict(parameters)}, stream)
    return parameters


@functools.cache
def training_options(experiment: Path) -> dict[str, object]:
    """The experiment's config.yaml, as ESPnet wrote it when training began."""
    path = experiment / "config.yaml"
    require_files([path], "is the model trained (stage 11)?")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    options = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    assert isinstance(options, dict)
    return options


def environment_lines(command: str) -> str:
    """The Environments section: date, versions, git hash, command."""
    now = datetime.datetime.now().astimezone()
    lines = [
        f"- date: `{now:%Y-%m-%d %H:%M:%S %Z}`",
        f"- python version: `{platform.python_version()}`",
    ]
    for package in ("espnet", "espnet_moe_share", "torch"):
        lines.append(f"- {package} version: `{package} {_version(package)}`")
    lines.append(f"- Git hash: {_git_hash()}")
    lines.append(f"- command: `{command.strip()}`")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # Run from the source tree without being installed.
        return str(getattr(importlib.import_module(package), "__version__", "not installed"))


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_hash() -> str:
    # Inside somebody else's checkout, where this file is not tracked, the hash would mislead.
    if _git("ls-files", "--error-unmatch", __file__) is None:
        return "none (not a git checkout)"
    changed = " with uncommitted changes" if _git("status", "--porcelain", "-uno") else ""
    hashed, date = (_git("log", "-1", f"--format={f}") for f in ("%H", "%cd"))
    return f"`{hashed}`{changed}\n  - Commit date: `{date}`"
