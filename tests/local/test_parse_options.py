"""local/parse_options.sh: options set variables that exist, and nothing else."""

import subprocess
from pathlib import Path

import pytest

PARSE_OPTIONS = Path(__file__).parents[2] / "local" / "parse_options.sh"
SCRIPT = """set -euo pipefail
asr_config=default.yaml
skip_train=false
{own}
. "{parse_options}"
printf '%s|' "$asr_config" "$skip_train" "${{other_options[@]}}" "$@"
"""
HELP = 'help_message="what it does"'
PASSED_ON = "own_options=(asr_config skip_train); usage() { echo what it does; }"


def run_script(
    tmp_path: Path, *arguments: str, own: str = HELP
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.sh"
    script.write_text(SCRIPT.format(parse_options=PARSE_OPTIONS, own=own))
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


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (
            ["--nj=4", "--asr-config=x", "--lm-args", "--seed 1"],
            "x|false|--nj|4|--lm-args|--seed 1|",
        ),
        (["here", "--python", "", "there"], "default.yaml|false|--python||here|there|"),
    ],
)
def test_options_of_others_are_passed_on(
    tmp_path: Path, arguments: list[str], printed: str
) -> None:
    """In one form, whatever variables of their names the script has."""
    done = run_script(tmp_path, *arguments, own=f"nj=1; python=python3; {PASSED_ON}")
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nj"], "option --nj needs a value"),
        (["--=4"], "unknown option --;"),
        (["--skip_train=yes"], "takes true or false, not 'yes'"),
    ],
)
def test_mistakes_in_a_script_that_passes_on(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run_script(tmp_path, *arguments, own=PASSED_ON)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("own", [HELP, PASSED_ON])
def test_help(tmp_path: Path, own: str) -> None:
    done = run_script(tmp_path, "--help", own=own)
    assert (done.returncode, done.stdout) == (0, "what it does\n")
