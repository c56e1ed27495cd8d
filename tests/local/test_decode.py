"""local/decode.py: jobs that an interruption left are redone, and nothing old is joined."""

import sys
from pathlib import Path

import pytest
from driver_data import assert_one_line_error, make_data_directory, run_helper

# Decodes as ESPnet's program does: reads the keys, writes 1best_recog, tells of it in its log.
PROGRAM = """
import os, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
output = pathlib.Path(options["--output_dir"]) / "1best_recog"
output.mkdir(parents=True)
keys = [line.split()[0] for line in open(options["--key_file"])]
pathlib.Path("ran").open("a").write(" ".join(keys) + "\\n")
if os.path.exists("crash") and "s1-d" in keys:
    (output / "text").write_text("s1-c half")
    sys.exit("RuntimeError: crashed")
for name in ("text", "token", "token_int", "score"):
    with open(output / name, "w") as stream:
        for key in keys[: 1 if os.path.exists("lose") else None]:
            print("speech length: 1")
            stream.write(f"{key} {open('model.pth').read()}\\n")
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    make_data_directory(Path("test"), {f"s1-{c}": "x" for c in "abcd"})
    Path("program.py").write_text(PROGRAM)
    Path("model.pth").write_text("one")
    own = ["--data", "test", "--output", "out", "--nj", "2", "--depends", "model.pth", "--"]
    return [*own, sys.executable, "program.py"]


def test_joined_in_order_and_reused(arguments: list[str]) -> None:
    assert run_helper("decode.py", *arguments).returncode == 0
    assert Path("out/text").read_text() == "s1-a one\ns1-b one\ns1-c one\ns1-d one\n"
    assert "already decoded" in run_helper("decode.py", *arguments).stdout
    assert sorted(Path("ran").read_text().splitlines()) == ["s1-a s1-b", "s1-c s1-d"]


def test_only_the_unfinished_job_is_redone(arguments: list[str]) -> None:
    Path("crash").touch()
    done = run_helper("decode.py", *arguments, "--slow", "1")
    assert_one_line_error(done, "decoding job 2 failed: RuntimeError: crashed (see out/logdir/")
    assert not Path("out/text").exists()
    # The first job may have been stopped by the failure of the second.
    first_done = Path("out/logdir/output.1/.done").exists()
    Path("crash").unlink()
    Path("ran").unlink()
    assert run_helper("decode.py", *arguments, "--slow", "1").returncode == 0
    expected = ["s1-c s1-d"] if first_done else ["s1-a s1-b", "s1-c s1-d"]
    assert sorted(Path("ran").read_text().splitlines()) == expected
    assert Path("out/text").read_text().splitlines()[3] == "s1-d one"


def test_another_model_is_decoded_anew(arguments: list[str]) -> None:
    run_helper("decode.py", *arguments)
    Path("model.pth").write_text("two")
    assert run_helper("decode.py", *arguments).returncode == 0
    assert Path("out/text").read_text() == "s1-a two\ns1-b two\ns1-c two\ns1-d two\n"


def test_language_model_of_other_tokens(arguments: list[str]) -> None:
    configs = []
    for kind, tokens in (("asr", "[A, B]"), ("lm", "[B, A]")):
        Path(kind).mkdir()
        Path(kind, "config.yaml").write_text(f"token_list: {tokens}\n")
        configs += [f"--{kind}_train_config", f"{kind}/config.yaml"]
    done = run_helper("decode.py", *arguments, *configs)
    assert_one_line_error(done, "lm/config.yaml has another token list than asr/config.yaml")
    assert not Path("ran").exists()
    Path("lm/config.yaml").write_text("token_list: [A, B]\n")
    assert run_helper("decode.py", *arguments, *configs).returncode == 0


def test_missing_hypotheses_and_missing_model(arguments: list[str]) -> None:
    Path("lose").touch()
    done = run_helper("decode.py", *arguments)
    assert_one_line_error(done, "no token for 2 utterances: s1-b")
    assert not Path("out/text").exists()
    Path("model.pth").unlink()
    done = run_helper("decode.py", *arguments)
    assert_one_line_error(done, "model.pth: no such file; is the model trained")
