"""The launcher, in processes of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import config

LAUNCH = ["-m", "espnet_moe_share.launch"]


@pytest.fixture
def probes(tmp_path: Path, environment: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """An empty folder for modules to launch, and an environment that finds them."""
    path = f"{tmp_path}:{environment['PYTHONPATH']}"
    return tmp_path, {**environment, "PYTHONPATH": path}


def python(
    arguments: list[str], probes: tuple[Path, dict[str, str]]
) -> subprocess.CompletedProcess[str]:
    folder, env = probes
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True
    )


def test_import_of_the_package_is_light(probes: tuple[Path, dict[str, str]]) -> None:
    code = (
        "import sys, espnet_moe_share, espnet_moe_share.launch, espnet_moe_share.errors\n"
        "heavy = {'torch', 'espnet', 'espnet2', 'espnet3', 'numpy', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python(["-c", code], probes)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python -m espnet_moe_share.launch -m <module with main()> [argument ...]"),
        (["-m"], "usage: "),
        (["espnet2.bin.asr_train"], "usage: "),
        (["-m", "no_such_module"], "no module named 'no_such_module'"),
        (["-m", "no_such.module"], "no module named 'no_such.module'"),
        (["-m", "mainless"], "mainless has no main() function"),
        (["-m", "refusing"], "refusing: error: encoder_conf is wrong"),
        (["-m", "mismatched"], "mismatched: error: the keys differ"),
        (["-m", "lacking"], "have no encoder 'zipper'; mend the name, or install"),
    ],
)
def test_errors_are_one_line(
    probes: tuple[Path, dict[str, str]], arguments: list[str], message: str
) -> None:
    (probes[0] / "mainless.py").write_text("main = 3\n")
    for name, error, text in (
        ("refusing", "ConfigurationError", "encoder_conf is wrong"),
        ("mismatched", "CheckpointMismatchError", "the keys differ"),
        (
            "lacking",
            "ValueError",
            "--encoder must be one of ('rnn', 'conformer'): --encoder zipper",
        ),
    ):
        (probes[0] / f"{name}.py").write_text(
            f"from espnet_moe_share.errors import *\ndef main():\n    raise {error}({text!r})\n"
        )
    done = python([*LAUNCH, *arguments], probes)
    assert done.returncode not in (0, None)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_program_gets_its_arguments_and_its_exit_status(
    probes: tuple[Path, dict[str, str]],
) -> None:
    (probes[0] / "program.py").write_text(
        "import sys\ndef main():\n    print(sys.argv)\n    sys.exit(7)\n"
    )
    done = python([*LAUNCH, "-m", "program", "-m", "x y", "--nj", "2"], probes)
    assert done.returncode == 7
    expected = [str(probes[0] / "program.py"), "-m", "x y", "--nj", "2"]
    assert done.stdout == f"{expected}\n"


def test_other_errors_keep_their_traceback(probes: tuple[Path, dict[str, str]]) -> None:
    (probes[0] / "broken.py").write_text("def main():\n    raise KeyError('cause')\n")
    done = python([*LAUNCH, "-m", "broken"], probes)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "broken.py" in done.stderr


def test_small_programs_do_not_wait_for_torch(probes: tuple[Path, dict[str, str]]) -> None:
    (probes[0] / "small.py").write_text(
        "import sys\ndef main():\n    assert 'torch' not in sys.modules\n"
    )
    assert python([*LAUNCH, "-m", "small"], probes).returncode == 0


SPAWNING = """
import multiprocessing
import sys

from espnet2.tasks.asr import encoder_choices, model_choices


def report(place):
    known = "moe_share_conformer" in encoder_choices.classes, "moe_share" in model_choices.classes
    print(place, *known, flush=True)
    sys.exit(0 if all(known) else 3)


def main():
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=report, args=("worker",))
    worker.start()
    worker.join()
    assert worker.exitcode == 0, worker.exitcode
    report("main " + sys.argv[1])
"""


@pytest.mark.slow
def test_registered_in_spawned_workers_behind_espnets_launcher(
    probes: tuple[Path, dict[str, str]],
) -> None:
    """``asr.sh`` runs a training as ``espnet2.bin.launch … -- ${python} -m espnet2.bin.…``."""
    (probes[0] / "spawning.py").write_text(SPAWNING)
    log = probes[0] / "train.log"
    espnet = ["-m", "espnet2.bin.launch", "--cmd", _local_runner(probes[0]), "--log", str(log)]
    command = [sys.executable, *LAUNCH, "-m", "spawning", "hello"]
    done = python([*espnet, "--ngpu", "0", "--", *command], probes)
    text = log.read_text() if log.exists() else ""
    assert done.returncode == 0, done.stderr + text
    assert "worker True True" in text
    assert "main hello True True" in text


def _local_runner(folder: Path) -> str:
    """What Kaldi's ``run.pl [--gpu n] log command …`` does, as far as it is needed here."""
    runner = folder / "run_locally"
    runner.write_text(
        "#!/usr/bin/env bash\nset -e\nwhile [[ $1 == --* ]]; do shift 2; done\n"
        'log=$1\nshift\n"$@" >"$log" 2>&1\n'
    )
    runner.chmod(0o755)
    return str(runner)


UNPICKLING = """
import argparse, pickle, sys, yaml
from espnet2.tasks.asr import ASRTask

settings = yaml.safe_load(open("config.yaml"))
try:
    ASRTask.build_model(argparse.Namespace(**settings))
except ValueError as error:
    print(str(error).split(" ")[0], "refused")
pickle.loads(bytes.fromhex(sys.argv[1]))
print(type(ASRTask.build_model(argparse.Namespace(**settings))).__name__)
"""


@pytest.mark.slow
def test_unpickling_a_method_of_our_task_registers(
    probes: tuple[Path, dict[str, str]],
) -> None:
    """As a worker of a multi-GPU training that was started from Python gets its target."""
    import pickle

    from espnet_moe_share.task import ASRTask

    (probes[0] / "config.yaml").write_text(yaml.safe_dump(config()))
    method = pickle.dumps(ASRTask.main_worker).hex()
    done = python(["-c", UNPICKLING, method], probes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["--encoder refused", "MoeShareASRModel"]


@pytest.mark.slow
def test_wrong_configuration_through_espnets_own_program(
    probes: tuple[Path, dict[str, str]],
) -> None:
    settings = config(encoder_conf={"sharing": [{"modules": ["self_atn"], "groups": 2}]})
    keys = ("token_list", "encoder", "encoder_conf", "model", "decoder", "frontend_conf")
    chosen = {key: settings[key] for key in keys}
    (probes[0] / "train.yaml").write_text(yaml.safe_dump(chosen))
    arguments = ["--config", "train.yaml", "--dry_run", "true", "--output_dir", "exp"]
    arguments += ["--token_type", "char", "--use_preprocessor", "false", "--ngpu", "0"]
    done = python([*LAUNCH, "-m", "espnet2.bin.asr_train", *arguments], probes)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("espnet2.bin.asr_train: error: sharing[0]: 'self_atn' in 'modules'")
    assert "Traceback" not in done.stderr
