"""benchmarks/: every program runs in its smallest form and its JSON has what it promises.

No test looks at a time.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import build, config, dense_config, save

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., dict[str, Any]]
SPREAD = {"median", "lower_quartile", "upper_quartile"}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a file of benchmarks/ as its programs do; they are gone from sys.modules after."""
    import torch

    threads, before = torch.get_num_threads(), set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module
    torch.set_num_threads(threads)
    for path in (ROOT / "benchmarks").glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.fixture
def run(tmp_path: Path, program: Callable[[str], Any]) -> Run:
    """Call a program's main() and return what it has written as JSON."""

    def call(name: str, *arguments: object) -> dict[str, Any]:
        file = tmp_path / f"{name}.json"
        program(name).main([*map(str, arguments), "--seconds", "0", "--json", str(file)])
        written: dict[str, Any] = json.loads(file.read_text())
        assert written["command"].startswith(f"python3 benchmarks/{name}.py ")
        assert {"commit", "torch", "espnet", "processor", "threads", "malloc"} <= set(written)
        return written

    return call


@pytest.fixture
def configurations(tmp_path: Path) -> list[object]:
    """Options that name the YAML files of a tiny teacher and its student."""
    options: list[object] = []
    for name, settings in (
        ("teacher", dense_config()),
        ("student", config(model_conf={"distill_weight": 1.0})),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**settings, "token_list": None}))
        options += [f"--{name}", path]
    return options


def check(compared: dict[str, Any], reference: str, *others: str) -> None:
    assert compared["reference"] == reference
    for figures in (compared["seconds"], compared["ratios"]):
        assert {reference, *others} <= set(figures)
        assert all(set(spread) == SPREAD for spread in figures.values())
    assert compared["ratios"][reference]["median"] == 1


def test_ratios_are_taken_within_rounds(program: Callable[[str], Any]) -> None:
    # The machine is slow in the second round and much slower in the last; the second candidate
    # was interrupted in the fourth.
    taken = {"one": [1.0, 2.0, 1.0, 1.0, 9.0], "other": [1.5, 3.0, 1.5, 50.0, 13.5]}
    compared = program("interleaved").summarize(taken, "one")
    assert vars(compared.ratios["other"]) == dict.fromkeys(SPREAD, 1.5)
    assert compared.rounds == 5


def test_turns_rotate(program: Callable[[str], Any]) -> None:
    called: list[str] = []
    candidates = {name: lambda name=name: called.append(name) for name in "abc"}
    taken = program("interleaved").take_turns(candidates, rounds=3, seconds=0)
    assert "".join(called[-9:]) == "abcbcacab"
    assert {name: len(values) for name, values in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_turns_are_as_long_as_the_accelerator_takes(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call returns at once; its 2 s are over when it has been waited for."""
    clock = [0.0]
    monkeypatch.setattr(program("interleaved").time, "perf_counter", lambda: clock[0])
    calls: list[int] = []
    waiting = iter([2.0, 2.0, 2.0, 0.0])

    def synchronize() -> None:
        clock[0] += next(waiting, 10.0)

    candidates = {"a": lambda: calls.append(1)}
    taken = program("interleaved").take_turns(candidates, 1, 10.0, synchronize=synchronize)
    assert len(calls) == 3 + 5
    assert taken == {"a": [2.0]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--rounds", "0"], "argument --rounds: 0: a whole number from 1 is needed"),
        (["--threads", "x"], "argument --threads: x: a whole number from 1 is needed"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    program: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks/encoder.py", *options])
    with pytest.raises(SystemExit) as refused:
        program("report").start(program("encoder").main)
    last = str(refused.value) + capsys.readouterr().err
    assert "encoder.py: error: " + message in last


def test_expert_layer(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--size", 8, "--hidden_units", 12, "--experts", 3, "--top_k", 2, "--frames", 5)
    written = run("expert_layer", *sizes, "--rounds", 1, "--threads", 1)
    assert [row["pass"] for row in written["rows"]] == ["forward", "training step"]
    for row in written["rows"]:
        assert (row["num_experts"], row["top_k"], row["frames"]) == (3, 2, 5)
        check(row["compared"], "dense", "dense, SiLU", "experts, auto", "loop", "all experts")
        assert set(row["limits"]["shares"]["experts, auto"]) == {"flops", "bytes"}
    assert "| forward | 3 | 2 | 5 |" in capsys.readouterr().out


def test_pieces(run: Run) -> None:
    # large enough for oneDNN to pack
    sizes = ("--size", 128, "--hidden_units", 512, "--rows", 3, "--mels", 20, "--frames", 30)
    figures = run("pieces", *sizes, "--rounds", 1, "--threads", 1)["figures"]
    assert [figure["piece"] for figure in figures] == [
        *("product, 128 to 512", "product, 512 to 128"),
        *("gradient of 512 x 128", "gradient of 128 x 512"),
        *("sums of rows of 512", "rows of 128 moved"),
        *("input layer, forward", "input layer, training step"),
    ]
    for figure in figures[:2]:
        check(figure, "torch", "torch, then SiLU", "one batch")
        check(figure, "torch", "oneDNN", "packed", "packed, then SiLU", "packed, with SiLU")
    for figure in figures[2:4]:
        check(figure, "by rows", "by columns", "by rows, over zeros", "by columns, over zeros")
        check(figure, "by rows", "one batch, by rows", "one batch, by columns")
    check(figures[4], "one by one", "embedding_bag", "one-hot product", "segment_reduce")
    check(figures[5], "index_select", "index_copy", "index_put", "index_add")
    for figure in figures[6:]:
        assert (figure["unit"], figure["count"]) == ("frames", 30)
        check(figure, "torch's order", "channels last")


def test_new_rows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--size", 8, "--hidden_units", 12, "--rows", 3, 5, "--numbers", 2, "--threads", 1)
    figures = run("new_rows", *sizes)["figures"]
    assert [figure["product"] for figure in figures] == ["torch", "oneDNN"] * 4
    for figure in figures:
        assert set(figure["first"]) == set(figure["again"]) == SPREAD
        assert figure["kept"] >= 0
    assert "| 12 to 8 | 5-6 | torch |" in capsys.readouterr().out


def test_expert_layer_refuses_to_compare_what_differs(
    run: Run, program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = program("other_experts").LoopOfExperts.forward
    monkeypatch.setattr(
        program("other_experts").LoopOfExperts, "forward", lambda *args: forward(*args) + 0.1
    )
    with pytest.raises(SystemExit, match="'loop' differs by"):
        run("expert_layer", "--size", 8, "--hidden_units", 12, "--frames", 5, "--rounds", 1)


def test_encoder(
    run: Run,
    program: Callable[[str], Any],
    configurations: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_this_process(task: dict[str, Any]) -> Any:
        return program("memory").measure_here(json.loads(json.dumps(task)))

    monkeypatch.setattr(program("memory"), "_run", in_this_process)
    inputs = ("--utterances", 0.5, "--batch", 2, "--batch_seconds", 0.5)
    written = run("encoder", *configurations, *inputs, "--rounds", 1, "--threads", 1)
    names = ["0.5 s", "batch of 2"]
    assert [row["input"] for row in written["times"]] == 2 * names
    for row in written["times"]:
        check(row["compared"], "teacher", "student")
        assert 0.25 <= row["largest_share_of_an_expert"] <= 1
    rows = written["memory"]
    assert [row["input"] for row in rows] == [*names, names[1], names[1]]
    training = rows[2]
    student, teacher = training["student"], training["teacher"]
    assert student["parameter_bytes"] < teacher["parameter_bytes"]
    # Adam has two values for every parameter, and a count for every tensor.
    assert student["gradient_bytes"] == student["parameter_bytes"]
    assert 2 < student["optimizer_bytes"] / student["parameter_bytes"] < 2.2
    assert student["peak_bytes"] == student["tensor_bytes"] + student["peak_above_start_bytes"]
    assert student["all_peak_bytes"] == sorted(student["all_peak_bytes"])
    assert student["all_peak_bytes"][1] == student["peak_bytes"]


def test_growth(run: Run, configurations: list[object], tmp_path: Path) -> None:
    sizes = ("--experts", 2, 4, "--depth", 2, 4, "--length", 0.5, 1, "--utterance", 0.5)
    figure = tmp_path / "growth.png"
    written = run("growth", *configurations, *sizes, "--rounds", 1, "--threads", 1, "--png", figure)
    by_axis: dict[str, list[Any]] = {}
    for row in written["rows"]:
        assert set(row["ratio"]) == SPREAD
        by_axis.setdefault(row["axis"], []).append(row)
    assert [row["name"] for row in by_axis["length"]] == ["0.5", "0.5, teacher", "1", "1, teacher"]
    few, many = (row["params"] for row in by_axis["experts"])
    # two groups of layers, each with two experts more, of 8 x 12 and two biases
    assert many - few == 2 * 2 * (2 * 8 * 12 + 8 + 12) + 4 * 2 * 8
    assert by_axis["depth"][1]["ratio_per_size"] == by_axis["depth"][1]["ratio"]["median"] / 2
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_distillation(run: Run, configurations: list[object]) -> None:
    options = ("--utterances", 1, "--vocab_size", 8, "--rounds", 1, "--threads", 1)
    written = run("distillation", *configurations, *options)
    others = ("student", "student with teacher", "teacher's encoder forward")
    check(written["compared"], "teacher", *others)
    seconds = {name: one["median"] for name, one in written["compared"]["seconds"].items()}
    extra = seconds["student with teacher"] - seconds["student"]
    expected = extra / seconds["teacher's encoder forward"]
    assert written["extra_encoder_passes"]["median"] == pytest.approx(expected)


def test_recognition(run: Run, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    lines = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.wav"
        soundfile.write(file, np.random.default_rng(0).normal(scale=0.1, size=8000), 16000)
        lines.append(f"{name} {file}\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    (tmp_path / "decode.yaml").write_text("{beam_size: 2, maxlenratio: 0.2, lm_weight: 0.3}\n")
    options: list[object] = ["--data_dir", tmp_path, "--inference_config", tmp_path / "decode.yaml"]
    for name, settings in (("teacher", dense_config()), ("student", config())):
        save(tmp_path / name, settings, build(settings))
        options += [f"--{name}_exp", tmp_path / name]
    written = run("recognition", *options, "--model_file", "model.pth", "--threads", 1)
    assert written["speech_seconds"] == 1.0
    assert written["search"] == {"beam_size": 2, "maxlenratio": 0.2}
    assert [row["decoding"] for row in written["rows"]] == ["beam search", "greedy CTC"]
    for row in written["rows"]:
        check(row["compared"], "teacher", "student")
        assert row["compared"]["rounds"] == 2
        assert set(row["real_time_factor"]) == {"teacher", "student"}


def test_startup(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    written = run("startup", "--rounds", 1, "--start_rounds", 1, "--program", "json.tool")
    check(written["measured"]["import"], "json", "espnet_moe_share")
    check(written["measured"]["json.tool --help"], "ESPnet's own", "through launch")
    check(written["measured"]["within json.tool"], "imports", "register()")
