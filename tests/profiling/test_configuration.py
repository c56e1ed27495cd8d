"""From a YAML file to a model, or to one line that says what is wrong with the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import ENCODER, EXPERTS, SHARING, TOKENS, config, dense_config, merge

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.profiling.profile import Profile, profile

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2}
TRAINING = {
    "encoder": "conformer",
    "encoder_conf": SMALL,
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 12, "num_blocks": 1},
    "optim": "adam",
    "max_epoch": 3,
}


def write(folder: Path, settings: Any) -> Path:
    path = folder / "train.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return path


def profiled(folder: Path, settings: Any, **options: Any) -> Profile:
    return profile(write(folder, settings), speech_seconds=0.5, **options)


@pytest.mark.parametrize(
    "encoder",
    [
        {"encoder": "conformer", "encoder_conf": SMALL},
        {"encoder": "transformer", "encoder_conf": SMALL},
        {"encoder": "e_branchformer", "encoder_conf": {**SMALL, "cgmlp_linear_units": 16}},
        {
            "encoder": "branchformer",
            "encoder_conf": {"output_size": 8, "num_blocks": 2, "cgmlp_linear_units": 16},
        },
        {
            "encoder": "vgg_rnn",
            "encoder_conf": {"num_layers": 1, "hidden_size": 4, "output_size": 8},
        },
    ],
    ids=lambda encoder: encoder["encoder"],
)
def test_espnets_own_encoders(tmp_path: Path, encoder: dict[str, Any]) -> None:
    found = profiled(tmp_path, {**TRAINING, **encoder}, vocab_size=10)
    assert found.stored == found.active == found.dense
    assert found.encoder_macs > 0
    assert found.checkpoint_bytes > 4 * found.stored["total_params"]


def test_tokens_of_a_training(tmp_path: Path) -> None:
    """Output layer of the decoder, its embedding and that of CTC grow with the vocabulary."""
    few, many = (profiled(tmp_path, TRAINING, vocab_size=size) for size in (10, 13))
    assert (few.num_tokens, many.num_tokens) == (10, 13)
    grown = many.stored["total_params"] - few.stored["total_params"]
    assert grown == 3 * ((8 + 1) + 8 + (8 + 1))
    assert few.stored["encoder_params"] == many.stored["encoder_params"]


def test_experiments_own_tokens_without_its_statistics_and_teacher(tmp_path: Path) -> None:
    gone = {"teacher_config": "gone/config.yaml", "teacher_model_file": "gone/model.pth"}
    settings = config(
        normalize="global_mvn",
        normalize_conf={"stats_file": "gone/feats_stats.npz"},
        model_conf={"distill_weight": 1.0, **gone},
        # what ESPnet writes into config.yaml besides its options
        version="202611",
        distributed=False,
    )
    found = profiled(tmp_path, settings)
    assert found.num_tokens == len(TOKENS)
    assert found.encoder == "moe_share_conformer"


def test_token_list_as_a_file(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("".join(f"{token}\n" for token in TOKENS))
    found = profiled(tmp_path, {**TRAINING, "token_list": str(tokens)})
    assert found.num_tokens == len(TOKENS)


@pytest.mark.parametrize("knobs", [{"experts": EXPERTS}, {"sharing": SHARING}])
def test_dense_is_espnets_encoder(tmp_path: Path, knobs: dict[str, Any]) -> None:
    ours = profiled(tmp_path, merge(config(), {"encoder_conf": {"sharing": None, **knobs}}))
    espnets = profiled(tmp_path, dense_config())
    assert ours.dense == espnets.stored
    assert ours.stored != ours.dense
    unchanged = profiled(tmp_path, dense_config(encoder="moe_share_conformer"))
    assert unchanged.dense == unchanged.stored == espnets.stored


def test_models_built_later_have_random_weights(tmp_path: Path) -> None:
    profiled(tmp_path, TRAINING)
    assert torch.nn.Linear(3, 3).weight.count_nonzero() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "a mapping of options to values is needed"),
        ("- a\n- b\n", "a mapping of options to values is needed"),
        ("a: [b\nc: }", "is no YAML file: ParserError"),
        ({"beam_size": 10}, "'beam_size' is no option of espnet2.bin.asr_train"),
        ({"lm": "transformer", "token_list": TOKENS}, "no 'encoder'"),
        ({**TRAINING, "encoder": "conformr"}, "--encoder must be one of ('conformer', "),
        ({**TRAINING, "max_epoch": "x"}, "argument --max_epoch: invalid int value: 'x'"),
        ({**TRAINING, "encoder_conf": {"num_block": 3}}, "argument 'num_block'"),
        ({**TRAINING, "encoder_conf": {"num_blocks": "x"}}, '"num_blocks" (str) is not'),
        ({**TRAINING, "normalize": "utterance_mvn", "normalize_conf": None}, "not NoneType"),
        ({**TRAINING, "token_list": "gone.txt"}, "No such file or directory: 'gone.txt'"),
        (
            {
                **TRAINING,
                "encoder": "moe_share_conformer",
                "encoder_conf": {**ENCODER, "experts": {"num_experts": 0}},
            },
            "no model can be built: experts: 'num_experts' must be 1 or more, not 0",
        ),
    ],
)
def test_wrong_configurations(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        profiled(tmp_path, settings)
    assert str(error.value).startswith(str(tmp_path / "train.yaml"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_too_little_speech(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"0\.04 s of speech cannot be encoded: TooShort"):
        profile(write(tmp_path, TRAINING), speech_seconds=0.04)
