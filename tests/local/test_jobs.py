"""local/jobs.py: parallel programs, their failures, and that none outlives its driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import UserError
from driver_data import LOCAL
from jobs import Job, exclusive, run_jobs


def python_job(tmp_path: Path, name: str, code: str) -> Job:
    return Job(name, [sys.executable, "-c", code], tmp_path / "log" / f"{name}.log")


def test_all_run_with_their_logs_and_threads(tmp_path: Path) -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    jobs = [python_job(tmp_path, f"job{n}", code) for n in (1, 2)]
    ended: list[str] = []
    run_jobs(jobs, threads=1, on_success=lambda job: ended.append(job.name))
    assert sorted(ended) == ["job1", "job2"]
    for job in jobs:
        assert job.log.read_text().splitlines()[-1] == "1 1"


def test_failure_stops_the_others_and_says_why(tmp_path: Path) -> None:
    bad = python_job(tmp_path, "bad", "raise OSError(28, 'No space left on device')")
    slow = python_job(tmp_path, "slow", f"import time; time.sleep(60); {'x' * 3}")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        run_jobs([slow, bad])
    assert time.monotonic() - start < 20
    assert str(caught.value) == (
        f"bad failed: OSError: [Errno 28] No space left on device (see {bad.log})"
    )


def test_killed_job_names_the_signal(tmp_path: Path) -> None:
    killed = python_job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"killed by SIGKILL \(out of memory\?\)"):
        run_jobs([killed])


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_job_outlives_its_driver(tmp_path: Path, signal_number: int) -> None:
    pid_file = tmp_path / "pid"
    inner = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        f"import sys; sys.path.insert(0, {str(LOCAL)!r})\n"
        "from pathlib import Path\nfrom jobs import Job, run_jobs\n"
        f"run_jobs([Job('x', [sys.executable, '-c', {inner!r}], Path({str(tmp_path)!r}) / 'l')])"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", outer],
        stderr=subprocess.DEVNULL,
        # A shell starts what runs in its background with interrupts ignored; that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: pid_file.is_file() and bool(pid_file.read_text()))
    driver.send_signal(signal_number)
    driver.wait(timeout=20)
    job = int(pid_file.read_text())
    wait_until(lambda: not is_running(job))


def test_directory_is_held_against_a_second_run(tmp_path: Path) -> None:
    busy = pytest.raises(UserError, match="another process is working on it")
    with exclusive(tmp_path / "exp"), busy, exclusive(tmp_path / "exp"):
        pass
    with exclusive(tmp_path / "exp"):
        pass


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return status.read_text().rsplit(") ", 1)[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition, seconds: float = 15.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
