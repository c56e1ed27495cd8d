"""local/setup_env.sh: what is complete is not done again, what was interrupted is gone on with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for a Python whose venv holds a copy of itself and whose pip only notes its arguments.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c "*) exit "${WRONG_VERSION:-0}" ;;
    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python3" ;;
    "-m pip") echo "$@" >>"$PIP_CALLS"; exit "${PIP_STATUS:-0}" ;;
esac
"""
NOTHING = "#!/bin/sh\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    for name in ("setup_env.sh", "parse_options.sh", "sclite.sh", "espeak.sh", "fetch_deb.sh"):
        shutil.copy(ROOT / "local" / name, tmp_path / "local" / name)
    (tmp_path / "setup.py").write_text("first version")
    (tmp_path / "bin").mkdir()
    for name, text in (("python3", PYTHON), ("sclite", NOTHING), ("espeak-ng", NOTHING)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def setup(repository: Path, *arguments: str, **environment: str):  # type: ignore[no-untyped-def]
    env = {
        "PATH": f"{repository / 'bin'}:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "PIP_CALLS": str(repository / "pip_calls"),
        **environment,
    }
    command = ["bash", repository / "local" / "setup_env.sh", *arguments]
    return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)


def pip_calls(repository: Path) -> list[str]:
    calls = repository / "pip_calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_second_call_does_nothing(repository: Path) -> None:
    assert setup(repository).returncode == 0
    assert len(pip_calls(repository)) == 1 and pip_calls(repository)[0].endswith("--editable .")
    done = setup(repository)
    assert (done.returncode, done.stdout) == (0, f"{repository}/.venv is complete\n")
    assert len(pip_calls(repository)) == 1


def test_other_setup_or_tests_wanted(repository: Path) -> None:
    setup(repository)
    setup(repository, "--with_test", "true")
    assert pip_calls(repository)[1].endswith("--editable .[test]")
    # What the tests need includes what the recipes need.
    setup(repository)
    assert len(pip_calls(repository)) == 2
    (repository / "setup.py").write_text("second version")
    setup(repository)
    assert len(pip_calls(repository)) == 3


def test_failed_installation_is_not_taken_for_a_complete_one(repository: Path) -> None:
    done = setup(repository, PIP_STATUS="1")
    assert done.returncode == 1 and "pip could not install the package" in done.stderr
    assert setup(repository).returncode == 0
    assert len(pip_calls(repository)) == 2


def test_no_suitable_python(repository: Path) -> None:
    # The machine's own programs but for those that are, or fetch, a suitable Python.
    tools = repository / "tools"
    tools.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            link = tools / program.name
            if not program.name.startswith(("python", "uv")) and not link.is_symlink():
                link.symlink_to(program)
    done = setup(repository, WRONG_VERSION="1", PATH=f"{repository / 'bin'}:{tools}")
    assert done.returncode == 1
    assert "found no Python 3.12 or 3.13" in done.stderr
    assert not (repository / ".venv").exists()
