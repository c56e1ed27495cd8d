"""Run several programs at once, each with its log file, and leave none behind."""

import contextlib
import ctypes
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from command_line import UserError

_PR_SET_PDEATHSIG = 1  # Linux prctl(2)


@dataclass(frozen=True)
class Job:
    """One program with its arguments and the file that gets its output."""

    name: str
    command: list[str]
    log: Path


def run_jobs(
    jobs: list[Job],
    *,
    threads: int | None = None,
    watch: Callable[[], None] = lambda: None,
    on_success: Callable[[Job], None] = lambda job: None,
) -> None:
    """Start all jobs at once and return when all have succeeded.

    Args:
        jobs: the programs.
        threads: number of threads that each may compute with; default: its own choice.
        watch: called about every half second and once at the end.
        on_success: called for a job that has ended with status 0.

    Raises:
        UserError: a job has failed; the others have been stopped. Names the log and what it says.
    """
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    previous = signal.signal(signal.SIGTERM, _on_terminate)
    _die_with_parent()
    try:
        for number, job in enumerate(jobs):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.log, "wb") as log:
                log.write(f"# {shlex.join(job.command)}\n".encode())
                log.flush()
                try:
                    process = subprocess.Popen(
                        job.command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        # Its own process group: one signal then reaches its workers as well.
                        start_new_session=True,
                        preexec_fn=_die_with_parent,
                    )
                except OSError as error:
                    raise UserError(f"{job.command[0]}: {error.strerror}") from None
            running[number] = (job, process)
        while running:
            for number, (job, process) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[number]
                if status != 0:
                    raise UserError(f"{job.name} failed: {last_error(job.log, status)}")
                on_success(job)
            watch()
            if running:
                time.sleep(0.5)
    finally:
        _stop([process for _, process in running.values()])
        signal.signal(signal.SIGTERM, previous)


def last_error(log: Path, status: int) -> str:
    """What a failed program said last that looks like a reason, and where to read more."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    named = re.compile(r"^([\w.]*(Error|Exception|Interrupt)\b.*|.*\berror: .*)")
    reasons = [line for line in lines if named.match(line)]
    if reasons:
        reason = reasons[-1]
    elif status < 0:
        reason = f"killed by {signal.Signals(-status).name} (out of memory?)"
    else:
        reason = lines[-1] if len(lines) > 1 else f"exit status {status}"
    return f"{reason[:500]} (see {log})"


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a directory against a second run, which would write the same files.

    Raises:
        UserError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: another process is working on it") from None
        yield


def _die_with_parent() -> None:
    # A killed driver would else leave its programs writing where the next run resumes.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _on_terminate(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for send in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, send)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(p.poll() is None for p in processes):
            time.sleep(0.1)
