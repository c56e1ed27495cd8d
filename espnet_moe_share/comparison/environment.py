"""The Environments section of a RESULTS.md: what a reader must know to make the figures again."""

import datetime
import importlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def environment_lines(command: str) -> str:
    """Date, versions, git hash, and the command that made the results."""
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
