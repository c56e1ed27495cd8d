#!/usr/bin/env python3
"""Measure what it takes to import espnet_moe_share and to start an ESPnet program through us.

    python3 benchmarks/startup.py
    python3 benchmarks/startup.py --start_rounds 0        # the import alone, a few seconds

Every figure is of a fresh process; the candidates take turns. The import's own time is taken inside
the process. ESPnet's program prints its help, for which it loads all its classes, started as its
manual says and by espnet_moe_share.launch, which also registers our encoders and model. What
registering takes is far below what such starts differ by; so it is also timed by itself, imports
of our modules included, as a share of the program's own imports before it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interleaved import Comparison, summarize
from report import begin, markdown, parser, write_json

IMPORT_TARGET = 0.050  # seconds
_TIMED = (
    "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin, "
    "'torch' in __import__('sys').modules)"
)
IMPORTS = {
    name: [sys.executable, "-c", _TIMED.format(name)] for name in ("json", "espnet_moe_share")
}


def starts(program: str) -> dict[str, list[str]]:
    """Commands that print a program's help."""
    return {
        "ESPnet's own": [sys.executable, "-m", program, "--help"],
        "through launch": [
            *(sys.executable, "-m", "espnet_moe_share.launch", "-m", program, "--help")
        ],
    }


_REGISTERED = """
import sys, time
begin = time.perf_counter()
import {}
imported = time.perf_counter()
if "espnet2.tasks.asr" in sys.modules:  # as launch does
    import espnet_moe_share
    espnet_moe_share.register()
print(imported - begin, time.perf_counter() - imported)
"""


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        sys.exit(f"startup.py: error: {' '.join(command[1:])}: {last}")
    return done.stdout


def import_seconds(command: Sequence[str]) -> float:
    """Of the import alone, as the process itself has measured it."""
    seconds, has_torch = _run(command).split()
    if has_torch == "True":
        sys.exit("startup.py: error: importing espnet_moe_share imports torch")
    return float(seconds)


def process_seconds(command: Sequence[str]) -> float:
    """Of the whole process."""
    begin = time.perf_counter()
    _run(command)
    return time.perf_counter() - begin


def in_turn(
    commands: Mapping[str, Sequence[str]], seconds: Callable[[Sequence[str]], float], rounds: int
) -> Comparison:
    """Run fresh processes in rounds, after one of each that fills the disk's cache."""
    names = list(commands)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        seconds(commands[name])
    reference = names[0]
    for _ in range(rounds):
        for name in names:
            taken[name].append(seconds(commands[name]))
        names = names[1:] + names[:1]
    return summarize(taken, reference)


def registration(program: str, rounds: int) -> Comparison:
    """Seconds of the program's imports and of registering after them, both of one process."""
    taken: dict[str, list[float]] = {"imports": [], "register()": []}
    for _ in range(rounds):
        output = _run([sys.executable, "-c", _REGISTERED.format(program)])
        for name, seconds in zip(taken, output.split()[-2:]):
            taken[name].append(float(seconds))
    return summarize(taken, "imports")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__, rounds=15)
    made.add_argument(
        "--start_rounds", type=int, default=5, help="of ESPnet's program, many seconds each [5]"
    )
    made.add_argument("--program", default="espnet2.bin.asr_train")
    options, head = begin(made, "startup.py", arguments)
    measured: dict[str, Comparison] = {}
    measured["import"] = in_turn(IMPORTS, import_seconds, options.rounds)
    measured["process with import"] = in_turn(IMPORTS, process_seconds, options.rounds)
    if options.start_rounds:
        name = f"{options.program} --help"
        measured[name] = in_turn(starts(options.program), process_seconds, options.start_rounds)
        name = f"within {options.program}"
        measured[name] = registration(options.program, options.start_rounds)
    rows: list[list[str]] = []
    for what, compared in measured.items():
        for name, seconds in compared.seconds.items():
            target = what == "import" and name == "espnet_moe_share"
            rows.append(
                [
                    what,
                    name,
                    f"{1e3 * seconds.median:.1f}",
                    f"{compared.ratios[name]:.3f}",
                    f"< {1e3 * IMPORT_TARGET:.0f} ms" if target else "-",
                ]
            )
    print(markdown(["what", "of", "ms", "to the first", "target"], rows, left=2))
    records: dict[str, Any] = {what: compared.record() for what, compared in measured.items()}
    write_json(options.json, head, measured=records)


if __name__ == "__main__":
    main()
