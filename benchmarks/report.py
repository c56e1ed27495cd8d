"""What all benchmarks say: where and how they were run, a Markdown table, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.files import whole_file

ROOT = Path(__file__).resolve().parents[1]
# They decide whether the gradients of a training step are fresh pages of the kernel every time.
MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def start(main: Callable[[], object]) -> None:
    """Run a program that reads configurations; what is wrong with them is told in one line."""
    try:
        main()
    except (ConfigurationError, CheckpointMismatchError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def from_1(text: str) -> int:
    """A whole number of an option."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 is needed")
    return number


def parser(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has.

    Args:
        description: Of the program, first line first.
        rounds: Default of ``--rounds``; None: the program has no such option.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        made.add_argument(
            "--rounds", type=from_1, default=rounds, help="of all candidates [%(default)s]"
        )
    made.add_argument(
        "--seconds", type=float, default=0.04, help="length of a candidate's turn [0.04]"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return made


def add_threads(made: argparse.ArgumentParser) -> None:
    """Add ``--threads``: as many as there are processors, two at most, as the targets have it."""
    threads = min(2, len(os.sched_getaffinity(0)))
    made.add_argument("--threads", type=from_1, default=threads, help=f"of torch [{threads}]")


def add_configurations(made: argparse.ArgumentParser) -> None:
    """Add ``--teacher`` and ``--student``: YAML files, at AISHELL-1's size by default."""
    for system, name in (("teacher", "train_teacher"), ("student", "train_moe_share")):
        made.add_argument(f"--{system}", type=Path, default=ROOT / f"conf/{name}_conformer.yaml")


def begin(
    made: argparse.ArgumentParser, program: str, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line, set torch's threads, and print the header.

    Args:
        made: The program's parser.
        program: Name of the file in this folder.
        arguments: Of the command line; None: those that the program was started with.

    Returns:
        The options, and the header for :func:`write_json`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = made.parse_args(arguments)
    threads = getattr(options, "threads", None)
    threads = threads if isinstance(threads, int) else None  # recognition.py has several
    if threads is not None:
        import torch  # not by a program that measures how quickly things are imported

        torch.set_num_threads(threads)
    head = header(program, arguments, threads)
    print_header(head)
    return options, head


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if not names:
        return "unknown"
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    # which kernels there are depends on it, and a virtual machine's name for a processor hides it
    vectors = ", AVX-512" if "avx512f" in flags else ", AVX2" if "avx2" in flags else ""
    return f"{len(names)} x {names[0]}{vectors}"


def header(program: str, arguments: Sequence[str], threads: int | None = None) -> dict[str, Any]:
    """Say what was run, and where.

    Args:
        program: Name of the file in this folder.
        arguments: Of the command line.
        threads: Of torch; None for a program that does not use it.
    """
    settings = {name: os.environ[name] for name in MALLOC_SETTINGS if name in os.environ}
    if os.environ.get("LD_PRELOAD"):
        settings["LD_PRELOAD"] = Path(os.environ["LD_PRELOAD"]).name
    return {
        "command": shlex.join(["python3", f"benchmarks/{program}", *arguments]),
        "commit": _commit(),
        "python": sys.version.split()[0],
        "torch": version("torch"),
        "espnet": version("espnet"),
        "processor": _processor(),
        "threads": threads,
        "malloc": settings,
    }


def print_header(head: dict[str, Any]) -> None:
    """The header for reading, above a table."""
    malloc = " ".join(f"{name}={value}" for name, value in head["malloc"].items())
    threads = "" if head["threads"] is None else f", {head['threads']} threads"
    print(f"`{head['command']}`\n")
    print(
        f"commit {head['commit']}; Python {head['python']}, torch {head['torch']}, ESPnet "
        f"{head['espnet']}; {head['processor']}{threads}; malloc settings: {malloc or 'none'}\n",
        flush=True,
    )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text, the others figures."""
    rules = ["---" if n < left else "---:" for n in range(len(columns))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (columns, rules, *rows))


def write_json(path: Path | None, head: dict[str, Any], **content: Any) -> None:
    """Write header and content, whole or not at all; nothing if ``path`` is None."""
    if path is None:
        return
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**head, **content}, indent=1) + "\n", encoding="utf-8")
