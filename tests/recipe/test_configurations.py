"""Every YAML of conf/: accepted by ESPnet's programs, of the sizes that are promised."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_recipe import ROOT

CONF = ROOT / "conf"
LANGUAGE_MODELS = sorted(path.name for path in CONF.glob("train_lm_*.yaml"))
TRAINING = sorted({path.name for path in CONF.glob("train_*.yaml")} - {*LANGUAGE_MODELS})
DECODING = sorted(path.name for path in CONF.glob("decode_*.yaml"))
# Tokens of the corpora, as stage 5 counts them; a size cannot be said without.
VOCABULARY = {"conformer": 4233, "mini": 102, "fillets": 34, "librispeech": 1000}


def corpus_of(name: str) -> str:
    """Last part of a configuration's name; of AISHELL-1's size is what names no other corpus."""
    last = name.removesuffix(".yaml").rpartition("_")[2]
    return last if last in VOCABULARY else "conformer"


def write_tokens(folder: Path, size: int) -> Path:
    tokens = ["<blank>", "<unk>", *(chr(0x4E00 + n) for n in range(size - 3)), "<sos/eos>"]
    path = folder / f"tokens{size}.txt"
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_dry_run(name: str, tmp_path: Path, unchanged_globals: None) -> None:
    """Model, optimiser and scheduler are made as in training, with the recipe's arguments."""
    from espnet_moe_share.task import ASRTask

    mels = yaml.safe_load((CONF / name).read_text("utf-8"))["frontend_conf"]["n_mels"]
    stats = tmp_path / "feats_stats.npz"
    one = np.ones(mels)
    np.savez(stats, count=np.array(2.0), sum=one, sum_square=2 * one)
    lists = tmp_path / "list"
    lists.write_text("a 1\n")
    command = ["--config", str(CONF / name), "--dry_run", "true", "--ngpu", "0"]
    command += ["--token_list", str(write_tokens(tmp_path, VOCABULARY[corpus_of(name)]))]
    command += ["--token_type", "char", "--bpemodel", "none", "--frontend_conf", "fs=16k"]
    command += ["--normalize", "global_mvn", "--normalize_conf", f"stats_file={stats}"]
    command += ["--output_dir", str(tmp_path / "exp")]
    ASRTask.main(cmd=command)
    written = yaml.safe_load((tmp_path / "exp/config.yaml").read_text("utf-8"))
    assert written["unused_parameters"] is False
    if written["scheduler"] == "onecyclelr":
        # Fewer steps than updates stop the training with an error near its end.
        steps = written["max_epoch"] * written["num_iters_per_epoch"]
        assert written["scheduler_conf"]["total_steps"] == steps


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_dry_run_of_a_language_model(name: str, tmp_path: Path, unchanged_globals: None) -> None:
    from espnet2.tasks.lm import LMTask

    command = ["--config", str(CONF / name), "--dry_run", "true", "--ngpu", "0"]
    command += ["--token_list", str(write_tokens(tmp_path, 102)), "--token_type", "char"]
    LMTask.main(cmd=[*command, "--output_dir", str(tmp_path / "exp")])
    written = yaml.safe_load((tmp_path / "exp/config.yaml").read_text("utf-8"))
    # What --inference_lm names by default.
    assert written["best_model_criterion"] == [["valid", "loss", "min"]]


def parameters(name: str, folder: Path, tokens: Path | None = None) -> tuple[dict[str, int], Any]:
    from espnet_moe_share.parameters import count_parameters
    from espnet_moe_share.task import ASRTask

    tokens = tokens or write_tokens(folder, VOCABULARY[corpus_of(name)])
    command = ["--config", str(CONF / name), "--token_list", str(tokens)]
    command += ["--output_dir", "none", "--normalize", "utterance_mvn"]
    model = ASRTask.build_model(ASRTask.get_parser().parse_args(command))
    return count_parameters(model), model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "limit"), [("conformer", 0.41), ("mini", 0.335), ("fillets", 0.335)]
)
def test_share_of_the_teachers_encoder_layers(corpus: str, limit: float, tmp_path: Path) -> None:
    teacher, _ = parameters(f"train_teacher_{corpus}.yaml", tmp_path)
    student, _ = parameters(f"train_moe_share_{corpus}.yaml", tmp_path)
    assert student["encoder_layer_params"] / teacher["encoder_layer_params"] <= limit
    if corpus == "conformer":
        assert round(teacher["total_params"] / 1e6, 2) == 46.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "teacher", "total"),
    [
        ("train_speechmoe.yaml", "train_teacher_conformer.yaml", 151_561_883),
        ("train_speechmoe_mini.yaml", "train_teacher_mini.yaml", 3_293_298),
    ],
)
def test_speechmoe_is_the_teacher_with_experts_and_an_embedding_network(
    name: str, teacher: str, total: int, tmp_path: Path
) -> None:
    """d and h: width and hidden width of encoder and network; E experts, b blocks, V tokens."""
    dense, _ = parameters(teacher, tmp_path)
    settings = yaml.safe_load((CONF / name).read_text("utf-8"))["encoder_conf"]
    d, h, b = (settings[key] for key in ("output_size", "linear_units", "num_blocks"))
    network = settings["embedding_network"]
    assert (network["output_size"], network["linear_units"]) == (d, h)
    num_experts = settings["experts"]["num_experts"]
    feed_forward = 2 * d * h + h + d
    experts = b * ((num_experts - 1) * feed_forward + num_experts * 2 * d)
    block = dense["encoder_layer_params"] // b
    # linear input layer, its norm, blocks of the teacher's kind, final norm
    embedding = d * d + d + 2 * d + network["num_blocks"] * block + 2 * d
    ctc = d * VOCABULARY[corpus_of(name)] + VOCABULARY[corpus_of(name)]
    found, _ = parameters(name, tmp_path)
    assert found["encoder_layer_params"] == dense["encoder_layer_params"] + experts
    assert found["encoder_params"] == dense["encoder_params"] + experts + embedding
    assert found["total_params"] == dense["total_params"] + experts + embedding + ctc == total


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["conformer", "mini"])
def test_size_of_the_students_file(corpus: str, tmp_path: Path) -> None:
    import torch

    name = f"train_moe_share_{corpus}.yaml"
    counts, model = parameters(name, tmp_path)
    best = yaml.safe_load((CONF / name).read_text("utf-8"))["keep_nbest_models"]
    # As ESPnet's averaging writes it: a plain dict, and the file's name stands at every tensor.
    file = tmp_path / f"valid.acc.ave_{best}best.pth"
    torch.save(dict(model.state_dict()), file)
    assert file.stat().st_size <= 1.03 * 4 * counts["total_params"]


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["conformer", "mini", "fillets"])
def test_student_and_teacher_differ_in_what_is_compared_only(corpus: str) -> None:
    """Features, decoder and batches are the teacher's; the schedule's length may differ."""
    teacher, student = (
        yaml.safe_load((CONF / f"train_{kind}_{corpus}.yaml").read_text("utf-8"))
        for kind in ("teacher", "moe_share")
    )
    own = {"experts", "sharing"}
    encoder = student["encoder_conf"]
    assert {k: v for k, v in encoder.items() if k not in own} == teacher["encoder_conf"]
    kept = {k: v for k, v in student["model_conf"].items() if k in teacher["model_conf"]}
    assert kept == teacher["model_conf"]
    for options in (teacher, student):
        for key in ("encoder", "encoder_conf", "model", "model_conf"):
            del options[key]
        for key in ("max_epoch", "scheduler_conf"):
            options.pop(key, None)
    assert student == teacher


# The levels of low-rank sharing: parameters of the encoder's layers, as their files say.
LEVELS = {
    "blocks": 10_562_560,
    "modules": 10_657_792,
    "parts": 10_710_272,
    "factors": 10_834_944,
}


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_level_of_low_rank_sharing(level: str, tmp_path: Path) -> None:
    """It is the dense Conformer but for its knobs, of the documented size."""
    path = CONF / f"train_low_rank_share_{level}_conformer.yaml"
    text = path.read_text("utf-8")
    dense = yaml.safe_load((CONF / "train_teacher_conformer.yaml").read_text("utf-8"))
    options = yaml.safe_load(text)
    knobs = {key: options["encoder_conf"].pop(key, None) for key in ("low_rank", "sharing")}
    assert knobs["sharing"] and bool(knobs["low_rank"]) == (level == "factors")
    ours = {"encoder": "moe_share_conformer", "model": "moe_share"}
    assert options == {**dense, **ours}
    counts, _ = parameters(path.name, tmp_path)
    assert counts["encoder_layer_params"] == LEVELS[level]
    assert f"{LEVELS[level] / 1e6:.2f} M parameters" in " ".join(text.replace("#", "").split())


@pytest.mark.slow
def test_5_million_parameters_with_1000_pieces_of_sentencepiece(tmp_path: Path) -> None:
    from token_list import write_bpe_list

    rng = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(rng.choice(letters, rng.integers(1, 9))) for _ in range(2000)]
    write_bpe_list([" ".join(rng.choice(words, 9)) for _ in range(400)], "bpe", 1000, 1.0, tmp_path)
    name = "train_low_rank_share_librispeech.yaml"
    counts, model = parameters(name, tmp_path, tmp_path / "tokens.txt")
    assert model.vocab_size == 1000
    assert counts["total_params"] == 4_957_280
    assert counts["encoder_layer_params"] == 3_058_176
    text = (CONF / name).read_text("utf-8")
    assert all(f"{number:,}" in text for number in (4_957_280, 3_058_176))


@pytest.mark.parametrize("name", DECODING)
def test_decoding_configuration_is_parsed(name: str) -> None:
    from espnet2.bin.asr_inference import get_parser

    path = CONF / name
    required = ["--output_dir", "decoded", "--data_path_and_name_and_type", "wav.scp,speech,sound"]
    found = vars(get_parser().parse_args(["--config", str(path), *required]))
    for option, value in yaml.safe_load(path.read_text("utf-8")).items():
        assert found[option] == value and type(found[option]) is type(value)
