"""local/parse_options.sh: options set variables that exist, and nothing else."""

import subprocess
from pathlib import Path

import pytest

PARSE_OPTIONS = Path(__file__).parents[2] / "local" / "parse_options.sh"
SCRIPT = """set -euo pipefail
asr_config=default.yaml
skip_train=false
help_message="what it does"
. "{parse_options}"
printf '%s|' "$asr_config" "$skip_train" "$@"
"""


def run_script(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.sh"
    script.write_text(SCRIPT.format(parse_options=PARSE_OPTIONS))
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ([], "default.yaml|false|"),
        (["--asr_config", "a b.yaml", "--skip_train", "true"], "a b.yaml|true|"),
        (["--asr-config=x=y", "here", "--skip-train", "true"], "x=y|true|here|"),
        (["--asr_config", "--beam 3"], "--beam 3|false|"),
        (["--asr_config", ""], "|false|"),
        (["--", "--asr_config"], "default.yaml|false|--asr_config|"),
    ],
)
def test_values(tmp_path: Path, arguments: list[str], printed: str) -> None:
    done = run_script(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--asr_confg", "x"], "unknown option --asr_confg"),
        (["--help_message", "x"], "unknown option --help_message"),
        (["--asr_config"], "option --asr_config needs a value"),
        (["--skip_train", "yes"], "takes true or false, not 'yes'"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run_script(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--help")
    assert (done.returncode, done.stdout) == (0, "what it does\n")
