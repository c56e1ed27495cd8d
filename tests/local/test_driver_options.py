"""Options of local/teacher_student.sh, local/asr.sh and the recipes' run.sh."""

from pathlib import Path

import pytest
from driver_data import calls, option, run

SYSTEMS = ("--teacher_config", "conf/teacher.yaml", "--asr_config", "conf/student.yaml")


def test_teacher_then_student(recorded: Path) -> None:
    names = ("--lang", "zh", "--speed-perturb-factors", "0.9 1.0")
    own = ("--asr_args", "--max_epoch 3", "--nj=7", "--asr_tag", "small")
    done = run(recorded, "local/teacher_student.sh", *SYSTEMS, *names, *own)
    assert done.returncode == 0, done.stderr
    data, teacher, student = calls(recorded)
    stages = [(option(call, "--stage"), option(call, "--stop_stage")) for call in calls(recorded)]
    assert stages == [("1", "10"), ("11", "14"), ("11", "14")]
    for call in (data, teacher, student):
        assert option(call, "--nj") == "7"
        assert option(call, "--speed_perturb_factors") == "0.9 1.0"
    assert "--asr_args" not in data + teacher and "--asr_tag" not in data + teacher
    assert option(data, "--asr_config") == option(teacher, "--asr_config") == "conf/teacher.yaml"
    assert option(teacher, "--asr_exp") == "exp/asr_teacher_raw_zh_char_sp"
    assert option(student, "--asr_config") == "conf/student.yaml"
    assert option(student, "--asr_tag") == "small"
    assert option(student, "--asr_args") == (
        "--model_conf teacher_config=exp/asr_teacher_raw_zh_char_sp/config.yaml --model_conf "
        "teacher_model_file=exp/asr_teacher_raw_zh_char_sp/valid.acc.ave.pth --max_epoch 3"
    )
    assert "'exp/asr_teacher_raw_zh_char_sp'" in done.stdout and "'exp/asr_small'" in done.stdout


def test_no_teacher(recorded: Path) -> None:
    systems = ("--teacher_config", "none", "--asr_config", "conf/student.yaml")
    arguments = (*systems, "--asr_args", "--seed 3", "--stage", "4", "--stop_stage", "11")
    assert run(recorded, "local/teacher_student.sh", *arguments).returncode == 0
    (call,) = calls(recorded)
    assert (option(call, "--stage"), option(call, "--stop_stage")) == ("4", "11")
    assert option(call, "--asr_args") == "--seed 3"
    assert option(call, "--asr_tag") == "student_raw_char_seed3"


def test_given_teacher_is_only_decoded(recorded: Path) -> None:
    teacher = recorded / "given"
    teacher.mkdir()
    for name in ("config.yaml", "best.pth"):
        (teacher / name).write_text("")
    arguments = ("--teacher_exp", "given", "--teacher_asr_model", "best.pth", "--expdir", "e")
    systems = ("--teacher_config", "conf/teacher.yaml", "--asr_config", "conf/student.yaml")
    done = run(recorded, "local/teacher_student.sh", *systems, *arguments, "--stage", "11")
    assert done.returncode == 0, done.stderr
    decoded, student = calls(recorded)
    assert (option(decoded, "--stage"), option(decoded, "--stop_stage")) == ("12", "13")
    assert option(decoded, "--asr_exp") == "given"
    assert option(decoded, "--inference_asr_model") == "best.pth"
    assert "teacher_model_file=given/best.pth" in option(student, "--asr_args")


@pytest.mark.parametrize("stages", [("1", "5"), ("11", "11"), ("13", "13")])
def test_stages_are_respected(recorded: Path, stages: tuple[str, str]) -> None:
    arguments = (*SYSTEMS, "--stage", stages[0], "--stop-stage", stages[1])
    assert run(recorded, "local/teacher_student.sh", *arguments).returncode == 0
    found = {(option(call, "--stage"), option(call, "--stop_stage")) for call in calls(recorded)}
    assert found == {stages}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--asr_config", "conf/student.yaml"), "--teacher_config FILE or none is required"),
        (("--teacher_config", "none"), "--asr_config, the student's configuration, is required"),
        ((*SYSTEMS, "--teacher_config", "conf/x.yaml"), "conf/x.yaml: no such configuration"),
        ((*SYSTEMS, "--teacher_exp", "nowhere"), "--teacher_exp nowhere has no config.yaml"),
        ((*SYSTEMS, "--asr_tag", "teacher_raw_char"), "teacher and student would both be"),
        ((*SYSTEMS, "--asr_exp", "exp/x"), "--asr_exp would be the same"),
        ((*SYSTEMS, "--stage", "one"), "--stage one: a number is needed"),
        ((*SYSTEMS, "--nj"), "option --nj needs a value"),
        ((*SYSTEMS, "again"), "unexpected argument 'again'"),
    ],
)
def test_mistakes_stop_before_anything_runs(
    recorded: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(recorded, "local/teacher_student.sh", *arguments)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (recorded / "calls").exists()


SETS = ("--train_set", "train", "--valid_set", "dev", "--test_sets", "test")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SETS, "--asr_confg", "x"), "unknown option --asr_confg"),
        ((*SETS, "--token_type", "phn"), "--token_type phn: char, bpe or word is needed"),
        ((*SETS, "--feats_type", "fbank"), "--feats_type fbank: only raw"),
        ((*SETS, "--asr_config", "conf/x.yaml"), "conf/x.yaml: no such configuration"),
        ((*SETS, "--nj", "many"), "--nj many: a number is needed"),
        ((*SETS, "--expdir", "/dev/null/exp"), "/dev/null/exp: cannot be written to"),
        ((*SETS, "--expdir", "my exp"), "must not hold spaces"),
        ((*SETS, "--valid_set", "train"), "--train_set and --valid_set are both train"),
        ((*SETS, "--test_sets", "test train"), "--test_sets holds the training set"),
        (("--train_set", "train"), "--valid_set is required"),
        ((*SETS, "--skip_train", "maybe"), "takes true or false, not 'maybe'"),
    ],
)
def test_mistakes_in_options_of_asr_sh(recipe: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(recipe, "local/asr.sh", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (recipe / "dump" / "raw").exists()


def test_language_model_that_is_not_there(recipe: Path) -> None:
    """Looked for before the hours of training that come before decoding."""
    options = (*SETS, "--use_lm", "true", "--stage", "11", "--stop_stage", "12")
    done = run(recipe, "local/asr.sh", *options, "--lm_config", "conf/teacher.yaml", "--lang", "zh")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "exp/lm_teacher_zh_char/config.yaml: no such file; train the language" in done.stderr
    experiment = recipe / "exp" / "mine"
    experiment.mkdir(parents=True)
    (experiment / "config.yaml").write_text("")
    done = run(recipe, "local/asr.sh", *options, "--lm_exp", "exp/mine", "--inference_lm", "b.pth")
    assert "exp/mine/b.pth: no such file; train the language model" in done.stderr


def test_help_of_both(recipe: Path) -> None:
    for script in ("local/asr.sh", "local/teacher_student.sh"):
        done = run(recipe, script, "--help")
        assert done.returncode == 0
        assert "--inference_nj" in done.stdout and "--asr_args" in done.stdout


@pytest.mark.parametrize("options", [("--gcin-voice", "/voices"), ("--gcin-voice=/voices",)])
def test_recipe_passes_corpus_options_on(recorded: Path, options: tuple[str, ...]) -> None:
    arguments = (*options, *SYSTEMS, "--stop_stage=1", "--nj", "3")
    # From another directory, as the README's command does.
    done = run(recorded.parents[2], "egs2/aishell/asr1/run.sh", *arguments)
    assert done.returncode == 0, done.stderr
    (call,) = calls(recorded)
    assert option(call, "--local_data_opts") == "--corpus mini --gcin-voice /voices"
    assert option(call, "--train_set") == "mini_train"
    assert option(call, "--nj") == "3"


def test_recipe_refuses_an_unknown_corpus(recorded: Path) -> None:
    done = run(recorded, "run.sh", "--corpus", "librispeech")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--corpus librispeech: mini, mini_noisy, espeak or aishell is needed" in done.stderr
