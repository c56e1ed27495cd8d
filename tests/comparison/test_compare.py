"""The table of two experiments such as a recipe leaves, without a training."""

import json
from pathlib import Path

import pytest

from espnet_moe_share.bin.compare import main

LOG = (
    "2026-11-21 10:00:00,000 (asr_inference:571) INFO: speech length: 16000\n"
    "2026-11-21 10:00:00,250 (batch_beam_search:1259) INFO: best hypo: a\n"
)
EPOCH = "INFO: 1epoch results: [train] time=1 minute and 1 second, [valid] time=2 seconds, x=1\n"


def write_result(experiment: Path, score: str, utterances: dict[str, tuple[int, ...]]) -> None:
    sums = [sum(column) for column in zip(*utterances.values())]
    words = sum(sums[:3])
    rates = " ".join(f"{100 * n / words:.1f}" for n in (*sums, sum(sums[1:]), 0))
    text = f"| Sum/Avg | {len(utterances)} {words} | {rates} |\n"
    for name, counts in utterances.items():
        text += f"id: (s-{name})\nScores: (#C #S #D #I) {' '.join(map(str, counts))}\n"
    result = experiment / "decode" / "test" / f"score_{score}" / "result.txt"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(text)


def make_experiment(path: Path, layers: int, errors: int) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text("config: conf/x.yaml\nseed: 3\nfrontend_conf: {fs: 16k}\n")
    model = path / "valid.acc.ave.pth"
    model.write_bytes(b"0" * 20000)
    status = model.stat()
    parameters = {"encoder_layer_params": layers, "encoder_params": 2000, "total_params": 3000}
    kept = {"model": [status.st_size, status.st_mtime_ns], "parameters": parameters}
    (path / ".parameters.json").write_text(json.dumps(kept))
    (path / "train.log").write_text(EPOCH)
    write_result(path, "cer", {"u1": (9 - errors, errors, 1, 2), "u2": (10, 0, 0, 0)})
    write_result(path, "wer", {"u1": (0, 1, 0, 0), "u2": (1, 0, 0, 0)})
    logs = path / "decode" / "test" / "logdir"
    logs.mkdir()
    (logs / "asr_inference.1.log").write_text(LOG)
    return path


@pytest.fixture
def experiments(tmp_path: Path) -> list[str]:
    one = make_experiment(tmp_path / "asr_one", 1000, 1)
    return [str(one), str(make_experiment(tmp_path / "asr_two", 250, 3))]


def rows(text: str) -> list[list[str]]:
    return [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]


def test_two_systems(
    experiments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, figure = tmp_path / "exp" / "RESULTS.md", tmp_path / "exp" / "RESULTS"
    main([*experiments, "--output", str(output), "--figure", str(figure)])
    shown = capsys.readouterr().out
    header, _, one, two, _, _, cer, wer = rows(shown)
    assert dict(zip(header, one)) == {
        **{"system": "one", "set": "decode/test", "model file": "0.02 MB", "RTF": "0.250"},
        **{"encoder layers": "1,000", "encoder": "2,000", "total": "3,000"},
        **{"CER": "20.0", "characters": "20", "WER": "50.0", "words": "2"},
        **{"Sub": "1", "Del": "0", "Ins": "0", "training": "0:01:03 (1 epochs)"},
    }
    assert one[6:11] == ["20.0", "1", "1", "2", "20"] and two[6:11] == ["30.0", "3", "1", "2", "20"]
    assert two[2] == "250 (0.250)"
    # Both the first, one of each, both the second: +4/20, +2/20, 0.
    assert cer == ["test", "CER", "+10.00", "+0.00 ... +20.00", "0.000", "may be chance"]
    assert wer[2:5] == ["+0.00", "+0.00 ... +0.00", "0.000"]
    assert "10,000 resamples, seed 0" in shown
    text = output.read_text("utf-8")
    assert "- two: " in text and "seed 3" in text and "espnet version" in text
    assert ["one/decode/test", "2", "20", *["90.0", "5.0", "5.0", "10.0", "20.0", "0.0"]] in rows(
        text
    )
    assert (tmp_path / "exp/RESULTS.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "exp/RESULTS.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in output.parent.iterdir()) == [
        *("RESULTS.md", "RESULTS.pdf", "RESULTS.png"),
    ]


def test_one_and_three_systems_have_no_difference(
    experiments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(experiments[:1])
    assert "minus" not in capsys.readouterr().out
    three = [*experiments, str(make_experiment(tmp_path / "asr_three", 500, 2))]
    main([*three, "--names", "a", "b", "c"])
    shown = capsys.readouterr().out
    assert "minus" not in shown and [row[0] for row in rows(shown)[2:]] == ["a", "b", "c"]


def test_what_is_not_known_is_said_so(
    experiments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(experiments[0])
    (path / "train.log").unlink()
    (path / "decode/test/logdir/asr_inference.1.log").unlink()
    (path / "decode/test/score_wer/result.txt").unlink()
    main(experiments)
    assert rows(capsys.readouterr().out)[2][11:] == ["-"] * 7


def test_refusals(experiments: list[str], tmp_path: Path) -> None:
    one, two = experiments
    write_result(Path(two), "cer", {"u1": (10, 0, 0, 0), "u3": (10, 0, 0, 0)})
    for arguments, said in (
        ([one, two], "^compare: error: test, CER: 1 utterances are only in the first .* s-u2"),
        ([one, one], "asr_one: given twice"),
        ([str(tmp_path / "none")], "none: no such experiment"),
        ([one, "--asr_model_file", "other.pth"], "other.pth: no such model"),
        ([one, two, "--names", "a"], "--names: 1 for 2 experiments"),
        ([one, two, "--names", "a", "a"], "each has to be another"),
    ):
        with pytest.raises(SystemExit, match=said) as error:
            main(arguments)
        assert "\n" not in str(error.value)
    for result in Path(one).glob("decode/test/*/result.txt"):
        result.unlink()
    with pytest.raises(SystemExit, match="asr_one: nothing scored with valid"):
        main([one])
