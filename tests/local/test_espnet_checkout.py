"""ESPNET_ROOT: what the asr.sh of a checkout is given, and what is refused before it runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from driver_data import RECORDER, assert_one_line_error, calls, option, run

ROOT = Path(__file__).parents[2]
LINKS = ("asr.sh", "pyscripts", "scripts", "steps", "utils")
PROGRAMS = ("awk", "bash", "cat", "dirname", "env", "grep", "ln", "mkdir", "mv", "perl", "readlink")
PROGRAMS += ("rm", "sed", "sh", "basename", "tail")
SYSTEMS = ("--teacher_config", "conf/teacher.yaml", "--asr_config", "conf/student.yaml")
# ESPnet's file, as far as it matters here.
CMD_SH = """\
cmd_backend='local'
if [ "${cmd_backend}" = local ]; then
    export train_cmd="run.pl" cuda_cmd="run.pl" decode_cmd="run.pl"
elif [ "${cmd_backend}" = slurm ]; then
    export train_cmd="slurm.pl" cuda_cmd="slurm.pl" decode_cmd="slurm.pl"
else
    echo "$0: Error: Unknown cmd_backend=${cmd_backend}" 1>&2
    return 1
fi
"""
PATH_SH = """\
export PATH=$PWD/utils/:$PATH
echo "[INFO] something"
. "$PWD/../../../tools/extra_path.sh"
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make_checkout(root: Path) -> Path:
    """A checkout whose asr.sh only notes its arguments, train_cmd, and where sclite is."""
    template = root / "egs2" / "TEMPLATE" / "asr1"
    for name in ("pyscripts", "scripts", "steps", "conf"):
        (template / name).mkdir(parents=True)
    for name in ("run.pl", "slurm.pl"):
        write_program(template / "utils" / name, "#!/bin/sh\n")
    noting = (
        '. ./path.sh\n. ./cmd.sh\necho "$train_cmd" >noted\ncommand -v sclite >>noted || true\n'
    )
    write_program(template / "asr.sh", RECORDER.replace("/bin/sh", "/usr/bin/env bash") + noting)
    (template / "cmd.sh").write_text(CMD_SH)
    (template / "path.sh").write_text(PATH_SH)
    (template / "conf" / "slurm.conf").write_text("command sbatch\n")
    (root / "tools").mkdir()
    (root / "tools" / "extra_path.sh").write_text("export FROM_CHECKOUT=yes\n")
    return root


@dataclass(frozen=True)
class Setting:
    """A recipe, a checkout, and a PATH on which there is nothing but what is named here."""

    recipe: Path
    checkout: Path
    programs: Path

    def run(self, *options: str, **environment: str):  # type: ignore[no-untyped-def]
        sets = ("--train_set", "train", "--valid_set", "dev", "--test_sets", "test")
        own = {"ESPNET_ROOT": str(self.checkout), "PATH": str(self.programs), "PYTHONPATH": ""}
        return run(
            self.recipe,
            "local/teacher_student.sh",
            *SYSTEMS,
            *sets,
            *options,
            **(own | environment),
        )


@pytest.fixture
def setting(tmp_path: Path, recorded: Path) -> Setting:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(shutil.which(name) or "/missing")
    write_program(programs / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("sox", "sclite"):
        write_program(programs / name, "#!/bin/sh\n")
    # What stage 5 would have left: the token list and the texts that are looked through.
    tokens = recorded / "data" / "token_list" / "char"
    tokens.mkdir(parents=True)
    (tokens / "tokens.txt").write_text("<blank>\n<unk>\nA\nB\n<sos/eos>\n")
    for name in ("train", "train_sp", "dev", "test"):
        (recorded / "dump" / "raw" / name).mkdir(parents=True)
        (recorded / "dump" / "raw" / name / "text").write_text("u1 AB\n")
    return Setting(recorded, make_checkout(tmp_path / "espnet"), programs)


def test_teacher_and_student_get_what_they_must(setting: Setting) -> None:
    done = setting.run(
        "--speed_perturb_factors", "0.9 1.0", "--asr_args", "--max_epoch 3", "--nj=7"
    )
    assert done.returncode == 0, done.stderr
    found = calls(setting.recipe)
    stages = [(option(call, "--stage"), option(call, "--stop_stage")) for call in found]
    # After stage 5 the texts are looked through.
    assert stages == [("1", "5"), ("6", "10"), ("11", "14"), ("11", "14")]
    for call in found:
        assert option(call, "--python") == "python3 -m espnet_moe_share.launch"
        assert option(call, "--use_lm") == "false"
        assert option(call, "--nj") == "7"
        # asr.sh's own default does not exist with speed perturbation.
        assert option(call, "--lm_train_text") == "data/train/text"
        assert "--allow_unk" not in call and not [a for a in call if a.startswith("--nj=")]
    _, data, teacher, student = found
    assert "--asr_args" not in data + teacher
    assert option(data, "--asr_config") == option(teacher, "--asr_config") == "conf/teacher.yaml"
    assert option(teacher, "--asr_exp") == "exp/asr_teacher_raw_char_sp"
    assert option(student, "--asr_config") == "conf/student.yaml"
    assert option(student, "--asr_tag") == "student_raw_char_max_epoch3_sp"
    assert option(student, "--asr_args") == (
        "--model_conf teacher_config=exp/asr_teacher_raw_char_sp/config.yaml --model_conf "
        "teacher_model_file=exp/asr_teacher_raw_char_sp/valid.acc.ave.pth --max_epoch 3"
    )
    # The same comparison as without a checkout.
    assert "'exp/asr_teacher_raw_char_sp'" in done.stdout
    assert "'exp/asr_student_raw_char_max_epoch3_sp'" in done.stdout
    for name in LINKS:
        target = setting.checkout / "egs2" / "TEMPLATE" / "asr1" / name
        assert (setting.recipe / name).readlink() == target


def test_options_that_only_the_checkout_has(setting: Setting) -> None:
    done = setting.run("--num_nodes", "2", "--audio-format", "flac.ark", "--stage", "11")
    assert done.returncode == 0, done.stderr
    for call in calls(setting.recipe):
        assert option(call, "--num_nodes") == "2"
        assert option(call, "--audio_format") == "flac.ark"


def test_skipped_stages_stay_apart_from_those_that_asr_sh_appends(setting: Setting) -> None:
    assert setting.run("--skip_stages", "12", "--stage", "11").returncode == 0
    assert option(calls(setting.recipe)[-1], "--skip_stages") == "12 "


def test_unknown_character_stops_as_without_a_checkout(setting: Setting) -> None:
    (setting.recipe / "dump" / "raw" / "test" / "text").write_text("u1 AC\n")
    done = setting.run()
    assert_one_line_error(done, "dump/raw/test/text: utterance u1 has 'C', not in data/token_list")
    assert [option(call, "--stop_stage") for call in calls(setting.recipe)] == ["5"]
    assert setting.run("--allow_unk", "true").returncode == 0


def test_pictures_for_packing(setting: Setting) -> None:
    """asr.sh packs exp/*/images, which a configuration with `use_matplotlib: false` has not."""
    assert setting.run("--stage", "11").returncode == 0
    assert not (setting.recipe / "exp").exists()
    assert setting.run("--stage", "14", "--skip_packing", "false").returncode == 0
    for name in ("teacher", "student"):
        assert (setting.recipe / f"exp/asr_{name}_raw_char/images").is_dir()
    assert sorted(path.name for path in (setting.recipe / "exp").iterdir()) == [
        "asr_student_raw_char",
        "asr_teacher_raw_char",
    ]


def test_language_model(setting: Setting) -> None:
    options = ("--use_lm", "true", "--lm_config", "conf/small.yaml", "--skip_packing", "false")
    done = setting.run(*options, "--stage", "11")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "exp/lm_small_char/config.yaml: no such file; train the language model" in done.stderr
    assert not (setting.recipe / "calls").exists()
    done = setting.run(*options, "--lm_train_text", "data/books/text")
    assert done.returncode == 0, done.stderr
    for call in calls(setting.recipe):
        assert option(call, "--use_lm") == "true"
        assert option(call, "--lm_config") == "conf/small.yaml"
        assert option(call, "--lm_train_text") == "data/books/text"
    assert (setting.recipe / "exp/lm_small_char/images").is_dir()


def test_own_driver_does_not_take_over_what_asr_sh_rewrites(setting: Setting) -> None:
    places = ("data/train_sp", "data/token_list/char", "dump/raw/train_sp", "dump/raw/org/dev")
    places += ("exp/asr_stats_raw_char", "exp/asr_student_raw_char/decode/test")
    others = ("data/dev", "exp/asr_other/decode/test")
    for name in places + others:
        (setting.recipe / name).mkdir(parents=True, exist_ok=True)
        (setting.recipe / name / ".done").write_text("{}")
    assert setting.run().returncode == 0
    assert not [name for name in places if (setting.recipe / name / ".done").exists()]
    assert all((setting.recipe / name / ".done").exists() for name in others)


def test_another_checkout(setting: Setting, tmp_path: Path) -> None:
    assert setting.run("--stage", "11").returncode == 0
    other = make_checkout(tmp_path / "other")
    done = setting.run("--stage", "11", ESPNET_ROOT=str(other))
    assert done.returncode == 0, done.stderr
    assert f"used {setting.checkout} until now; its links lead to {other}" in done.stdout
    for name in LINKS:
        target = other / "egs2" / "TEMPLATE" / "asr1" / name
        assert (setting.recipe / name).readlink() == target
    assert not [path for path in setting.recipe.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_in_the_way_of_a_link_stays(setting: Setting, kind: str) -> None:
    place = setting.recipe / "utils"
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("../elsewhere")
    done = setting.run()
    said = "is in the way of a link" if kind == "folder" else "is a link to ../elsewhere; remove it"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{place} {said}" in done.stderr
    assert not (setting.recipe / "asr.sh").is_symlink()
    assert place.is_dir() if kind == "folder" else str(place.readlink()) == "../elsewhere"


def test_cluster(setting: Setting) -> None:
    write_program(setting.programs / "sbatch", "#!/bin/sh\n")
    noted = setting.recipe / "noted"
    template = setting.checkout / "egs2" / "TEMPLATE" / "asr1"
    assert setting.run("--stage", "11").returncode == 0
    assert noted.read_text().splitlines()[0] == "run.pl"
    assert setting.run("--stage", "11", cmd_backend="slurm").returncode == 0
    assert noted.read_text().splitlines()[0] == f"slurm.pl --config {template}/conf/slurm.conf"
    # The recipe's own settings, which slurm.pl finds by itself.
    (setting.recipe / "conf" / "slurm.conf").write_text("command sbatch -p mine\n")
    assert setting.run("--stage", "11", cmd_backend="slurm").returncode == 0
    assert noted.read_text().splitlines()[0] == "slurm.pl"


def test_what_gets_path_only_finds_the_checkout(setting: Setting) -> None:
    assert setting.run("--stage", "11").returncode == 0
    template = setting.checkout / "egs2" / "TEMPLATE" / "asr1"
    path = os.environ["PATH"]
    # As the scripts that slurm.pl and queue.pl write begin.
    script = (
        '. ./path.sh\necho "${ESPNET_ROOT}|${FROM_CHECKOUT-}|${PYTHONPATH}|$(command -v run.pl)"'
    )

    def said(*command: str, path: str) -> str:
        done = subprocess.run(
            command, cwd=setting.recipe, env={"PATH": path}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.replace("//", "/")

    root = setting.recipe.parents[2]
    job = said("bash", "-c", script, path=f"{template}/utils/:{path}")
    assert job == f"{setting.checkout}|yes|{root}|{template}/utils/run.pl\n"
    # The links alone do not lead a run without ESPNET_ROOT there.
    assert said("bash", "-c", script, path=path) == f"||{root}|\n"
    # exp/*/run.sh of ESPnet, by hand.
    (setting.recipe / "noted").unlink()
    said("./asr.sh", "--stage", "11", path=path)
    assert (setting.recipe / "noted").read_text().splitlines()[0] == "run.pl"


def test_a_slash_at_the_end_is_no_other_checkout(setting: Setting) -> None:
    assert setting.run("--stage", "11", ESPNET_ROOT=f"{setting.checkout}/").returncode == 0
    done = setting.run("--stage", "11")
    assert done.returncode == 0 and "until now" not in done.stdout


def test_sclite_off_path(setting: Setting) -> None:
    (setting.programs / "sclite").unlink()
    place = setting.checkout / "tools" / "sctk" / "bin" / "sclite"
    write_program(place, "#!/bin/sh\n")
    assert setting.run("--stage", "12").returncode == 0
    found = (setting.recipe / "noted").read_text().splitlines()[1]
    # Debian's, where it is installed, comes first.
    assert found in (str(place), "/usr/lib/sctk/bin/sclite")


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ((), {"ESPNET_ROOT": "/nowhere"}, "/nowhere has no egs2/TEMPLATE/asr1/asr.sh"),
        ((), {"ESPNET_ROOT": "espnet"}, "ESPNET_ROOT=espnet: an absolute path is needed"),
        ((), {"ESPNET_ROOT": "/my espnet"}, "ESPnet's scripts split at spaces"),
        ((), {"cmd_backend": "cloud"}, "cmd.sh: Unknown cmd_backend=cloud; "),
        ((), {"cmd_backend": "slurm"}, "cmd.sh: slurm.pl needs sbatch, which is not on PATH"),
        (("--speed_perturb_factors", "0.9 1.0"), {}, "sox, which asr.sh perturbs the speed with"),
        (("--token_type", "bpe"), {}, "spm_train, which asr.sh makes bpe tokens with"),
        (("--allow_unk", "maybe"), {}, "--allow_unk takes true or false, not 'maybe'"),
        (("--python", "/usr/bin/env python0"), {}, "has no "),
    ],
)
def test_mistakes_stop_before_anything_runs(
    setting: Setting, options: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    (setting.programs / "sox").unlink()
    done = setting.run(*options, **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (setting.recipe / "calls").exists()


def test_sox_is_needed_for_stage_2_only(setting: Setting) -> None:
    (setting.programs / "sox").unlink()
    factors = ("--speed_perturb_factors", "0.9 1.0")
    assert setting.run(*factors, "--stage", "3").returncode == 0
    assert setting.run(*factors, "--skip_data_prep", "true").returncode == 0


def test_other_release_than_the_installed_one(setting: Setting) -> None:
    (setting.checkout / "version.txt").write_text("202301\n")
    done = setting.run("--stage", "11")
    assert done.returncode == 0
    assert "warning: the checkout is ESPnet 202301, python3 imports " in done.stderr
