"""Every stage from one command, and what it leaves; then the same command again."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import DECODED, STUDENT, TEACHER, Trained, columns, listing

pytestmark = pytest.mark.slow

# What the second call may touch: it prepares the lists, scores and packs again from what is there.
REWRITTEN = (".lock", "RESULTS.md", "RESULTS.png", "RESULTS.pdf", ".zip")


def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading (or what it is) -> rows of a Markdown table, without its two header lines."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for part in text.split("\n\n"):
        rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
        if rows:
            found[{"system": "sizes", "set": "differences"}.get(rows[0][0], heading)] = rows[2:]
        elif part.startswith("#"):
            heading = part.strip("# \n")
    return found


def test_layout(trained: Trained) -> None:
    """ESPnet's names, so that its users and tools find what they look for."""
    directory = trained.recipe.directory
    for name in ("train", "train_sp", "dev", "test"):
        for file in ("wav.scp", "text", "utt2spk", "spk2utt"):
            assert (directory / "data" / name / file).is_file()
    assert len(columns(directory / "data/train_sp/wav.scp")) == 3 * 12
    for name in ("org/train_sp", "org/dev", "train_sp", "dev", "test"):
        for file in ("wav.scp", "text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type"):
            assert (directory / "dump" / "raw" / name / file).is_file()
    tokens = (directory / "data/zh_token_list/char/tokens.txt").read_text("utf-8").split()
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    stats = directory / "exp/asr_stats_raw_zh_char_sp"
    for name in ("train/feats_stats.npz", "train/speech_shape", "valid/text_shape.char"):
        assert (stats / name).is_file()
    for experiment in (TEACHER, STUDENT):
        for name in ("config.yaml", "checkpoint.pth", "latest.pth", "valid.acc.best.pth"):
            assert (directory / experiment / name).is_file()
        assert (directory / experiment / "tensorboard" / "train").is_dir()
        for name in ("text", "token", "token_int", "score", "score_cer/result.txt"):
            assert (directory / experiment / DECODED / name).is_file()
        hypotheses = columns(directory / experiment / DECODED / "text")
        assert hypotheses.keys() == columns(directory / "data/test/text").keys()
        assert all(hypotheses.values())
    left = [p for p in directory.rglob("*") if ".tmp." in p.name or "partial" in p.name]
    assert left == []


def test_progress_is_visible(trained: Trained) -> None:
    begun = re.findall(r"Stage (\d+): ", trained.stdout)
    ended = re.findall(r"Stage (\d+) took \d+ s", trained.stdout)
    wanted = [*"12345", "10", "11", "12", "13", "14", "11", "12", "13", "14"]
    assert begun == ended == wanted
    for epoch in ("1/2", "2/2"):
        line = rf"^epoch {epoch}: train loss \S+, valid loss .* \d+ s$"
        assert len(re.findall(line, trained.stdout, re.MULTILINE)) == 2
    assert "Traceback" not in trained.stderr


def test_results_side_by_side(trained: Trained) -> None:
    directory = trained.recipe.directory
    text = (directory / "exp/RESULTS.md").read_text("utf-8")
    found = tables(text)
    assert [row[0] for row in found["sizes"]] == ["teacher", "student"]
    sizes = [int(row[2].partition(" ")[0].replace(",", "")) for row in found["sizes"]]
    share = float(found["sizes"][1][2].partition("(")[2].rstrip(")"))
    assert share == pytest.approx(sizes[1] / sizes[0], abs=5e-4)
    for row in found["sizes"]:
        assert float(row[16]) > 0  # real-time factor, from the logs of both jobs
        assert re.fullmatch(r"0:\d\d:\d\d \(2 epochs\)", row[17])
    assert [row[:2] for row in found["differences"]] == [["test", "CER"], ["test", "WER"]]
    cer = [100 * sum(map(int, row[7:10])) / int(row[10]) for row in found["sizes"]]
    assert float(found["differences"][0][2]) == pytest.approx(cer[1] - cer[0], abs=0.006)
    assert (directory / "exp/RESULTS.png").is_file()
    for score, name in (("WER", "score_wer"), ("CER", "score_cer")):
        assert [row[0] for row in found[score]] == [f"teacher/{DECODED}", f"student/{DECODED}"]
        for row, experiment in zip(found[score], (TEACHER, STUDENT)):
            result = (directory / experiment / DECODED / name / "result.txt").read_text("utf-8")
            line = next(line for line in result.splitlines() if "Sum/Avg" in line)
            assert row[1:] == re.findall(r"[\d.]+", line)
            assert row[1] == "4"
    references = columns(directory / "data/test/text")
    assert int(found["CER"][0][2]) == sum(map(len, references.values()))
    # The table is shown as well, not only written.
    assert f"|student|{DECODED}|" in trained.stdout
    for wanted in ("seed 0", "espnet version: `espnet ", "torch version", "Git hash: ", "./run.sh"):
        assert wanted in text
    for experiment in (TEACHER, STUDENT):
        own = (directory / experiment / "RESULTS.md").read_text("utf-8")
        assert "seed 0" in own and tables(own)["sizes"][0][2].replace(",", "").isdecimal()
        assert tables(own)["CER"][0][0] == DECODED


def saved_states(directory: Path, experiment: str) -> dict[str, dict[str, Any]]:
    """Where a trained model is saved -> its tensors."""
    files = {name: directory / experiment / name for name in ("2epoch.pth", "valid.acc.ave.pth")}
    states = {name: torch.load(file, weights_only=True) for name, file in files.items()}
    checkpoint = torch.load(directory / experiment / "checkpoint.pth", weights_only=True)
    states["checkpoint.pth"] = checkpoint["model"]
    with zipfile.ZipFile(next((directory / experiment).glob("*.zip"))) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        with archive.open(name) as stream:
            states["packed"] = torch.load(stream, weights_only=True)
    return states


def test_student_is_saved_without_teacher_and_each_shared_tensor_once(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_moe_share.parameters import count_parameters
    from espnet_moe_share.task import ASRTask

    directory = trained.recipe.directory
    monkeypatch.chdir(directory)  # config.yaml names the statistics from there
    model, _ = ASRTask.build_model_from_file(
        directory / STUDENT / "config.yaml", directory / STUDENT / "valid.acc.ave.pth"
    )
    parameters = count_parameters(model)["total_params"]
    buffers = {id(buffer): buffer.numel() for buffer in model.buffers()}
    states = saved_states(directory, STUDENT)
    for name, state in states.items():
        assert sum(tensor.numel() for tensor in state.values()) == parameters + sum(
            buffers.values()
        ), name
        # The same storage twice would be the same tensor twice.
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state), name
        assert not [key for key in state if "teacher" in key], name
        assert "encoder.encoders.0-3.self_attn.linear_q.weight" in state
    optimizer = torch.load(directory / STUDENT / "checkpoint.pth", weights_only=True)["optimizers"]
    moments = optimizer[0]["state"].values()
    assert sum(moment["exp_avg"].numel() for moment in moments) == parameters
    # A file has a few hundred bytes for each tensor on top, which only small models notice.
    size = (directory / STUDENT / "valid.acc.ave.pth").stat().st_size
    held = sum(t.numel() * t.element_size() for t in states["packed"].values())
    assert size < held + 500 * len(states["packed"])


def test_packs_hold_what_decoding_needs(trained: Trained) -> None:
    for experiment in (TEACHER, STUDENT):
        (packed,) = (trained.recipe.directory / experiment).glob("*.zip")
        with zipfile.ZipFile(packed) as archive:
            names = archive.namelist()
            assert archive.testzip() is None
        other = TEACHER if experiment == STUDENT else STUDENT
        assert not [name for name in names if Path(other).name in name]
        assert {Path(name).name for name in names} == {
            "meta.yaml",
            "config.yaml",
            "valid.acc.ave_2best.pth",
            "feats_stats.npz",
            "RESULTS.md",
        }


def test_student_has_learned_from_the_teacher(trained: Trained) -> None:
    log = (trained.recipe.directory / STUDENT / "train.log").read_text("utf-8")
    results = re.findall(r"epoch results: .*", log)
    distances = [float(re.findall(r"loss_distill=([-\d.e]+)", line)[0]) for line in results]
    assert len(distances) == 2 and 0 < distances[1] < distances[0]
    for name in ("loss_balance", "loss_balance_weighted", "layer0_feed_forward_load_entropy"):
        assert f"{name}=" in results[0]
    assert "loss_distill" not in (trained.recipe.directory / TEACHER / "train.log").read_text()


def test_tensorboard_shows_the_load_of_the_experts(trained: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images = {}
    for experiment in (TEACHER, STUDENT):
        folder = trained.recipe.directory / experiment / "tensorboard" / "train"
        events = EventAccumulator(str(folder)).Reload()
        images[experiment] = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    assert images[TEACHER] == {}
    assert [image.step for image in images[STUDENT]["expert_load"]] == [1, 2]


def test_second_call_repeats_nothing(trained: Trained) -> None:
    recipe = trained.recipe
    before = listing(recipe.directory)
    table = (recipe.directory / "exp/RESULTS.md").read_text("utf-8").partition("## Systems")[2]
    done = recipe.run()
    assert done.returncode == 0, done.stdout + done.stderr
    after = listing(recipe.directory)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert not {
        name
        for name in changed
        if not name.startswith("data/") and "/score_" not in name and not name.endswith(REWRITTEN)
    }
    assert done.stdout.count(": already trained\n") == 2
    assert done.stdout.count(": already decoded\n") == 2
    assert "data/train_sp: up to date" in done.stdout
    assert "asr_stats_raw_zh_char_sp: up to date" in done.stdout
    text = (recipe.directory / "exp/RESULTS.md").read_text("utf-8")
    assert text.partition("## Systems")[2] == table


def test_skip_train_decodes_and_scores_what_is_there(trained: Trained) -> None:
    done = trained.recipe.run("--skip_train", "true", "--skip_packing", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    begun = re.findall(r"Stage (\d+): ", done.stdout)
    assert begun == ["1", "3", "12", "13", "12", "13"]
    assert f"|student|{DECODED}|" in done.stdout
