"""Counted multiply-accumulates against those counted by hand, and bytes against a real file."""

import argparse
import io
from typing import Any

import pytest
import torch
from tiny_models import ENCODER, EXPERTS, MELS, SHARING, build, config, dense_config

from espnet_moe_share.profiling.measure import count_checkpoint_bytes, count_encoder_macs

D, H, K = 8, 12, 3  # width, hidden width and convolution kernel of ENCODER
LAYERS = 4


def macs(settings: dict[str, Any], seconds: float) -> int:
    return count_encoder_macs(build(settings).eval(), argparse.Namespace(**settings), seconds)


def features(settings: dict[str, Any]) -> dict[str, Any]:
    """The same model on features of 100 frames per second."""
    return {**settings, "frontend": None, "frontend_conf": {}, "input_size": MELS}


def layer_by_hand(frames: int, feed_forwards: int = 2, router_rows: int = 0) -> int:
    positions = 2 * frames - 1
    attention = 4 * frames * D * D + positions * D * D  # q k v out, positions
    attention += frames * frames * D + frames * positions * D  # scores of content, of position
    attention += frames * frames * D
    convolution = frames * (D * 2 * D + D * K + D * D)
    return attention + convolution + frames * (feed_forwards * 2 * D * H + router_rows * D)


def test_dense_conformer_on_features() -> None:
    settings = features(dense_config(encoder_conf={"input_layer": "linear"}))
    frames = 130
    assert macs(settings, 1.3) == frames * MELS * D + LAYERS * layer_by_hand(frames)


def test_subsampling_on_speech() -> None:
    """2-D convolutions of stride 2 over time and mel bands, then a linear layer."""
    settings = dense_config(encoder_conf={"input_layer": "conv2d"})
    frames = 1 + int(0.5 * 16000) // 128  # the STFT is centred: one more than shifts
    t1, f1 = (frames - 1) // 2, (MELS - 1) // 2
    t2, f2 = (t1 - 1) // 2, (f1 - 1) // 2
    subsampling = t1 * f1 * D * 9 + t2 * f2 * D * D * 9 + t2 * f2 * D * D
    assert macs(settings, 0.5) == subsampling + LAYERS * layer_by_hand(t2)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(("sharing", "groups"), [(None, LAYERS), (SHARING, 2)])
def test_only_chosen_experts_count(top_k: int, sharing: Any, groups: int) -> None:
    """And the projection of positions once for all layers that share it."""
    experts = {**EXPERTS, "top_k": top_k}
    changes = {"experts": experts, "sharing": sharing, "input_layer": "linear"}
    settings = features(config(encoder_conf=changes))
    layer = layer_by_hand(60, feed_forwards=1 + top_k, router_rows=EXPERTS["num_experts"])
    positions = (2 * 60 - 1) * D * D
    assert macs(settings, 0.6) == 60 * MELS * D + LAYERS * layer - (LAYERS - groups) * positions


def test_fused_attention_counts_as_well() -> None:
    """ESPnet computes the content scores before it calls the fused kernel, which does it again."""
    settings = features(dense_config(encoder_conf={"input_layer": "linear", "use_sdpa": True}))
    expected = 50 * MELS * D + LAYERS * (layer_by_hand(50) + 50 * 50 * D)
    assert macs(settings, 0.5) == expected


def test_recurrent_layers_count() -> None:
    """Two directions of four gates, from the input and from the hidden state."""
    settings = dense_config(encoder="rnn")
    settings["encoder_conf"] = {
        "num_layers": 1,
        "hidden_size": D,
        "output_size": D,
        "subsample": [1],
    }
    settings = features(settings)
    settings.update(decoder=None, model_conf={"ctc_weight": 1.0})
    projection = 2 * D * D
    assert macs(settings, 0.4) == 40 * (2 * 4 * D * (MELS + D) + projection)


def test_encoder_alone_counts() -> None:
    """Neither the frontend's mel filters nor the decoder; another vocabulary changes nothing."""
    settings = dense_config()
    longer = {**settings, "token_list": [f"token{n}" for n in range(50)]}
    assert macs(settings, 0.5) == macs(longer, 0.5)


def test_sampling_rate_of_the_configuration() -> None:
    slow = dense_config(frontend_conf={"fs": "8k"})
    assert macs(slow, 1.0) == macs(dense_config(), 0.5)


@pytest.mark.parametrize("sharing", [None, SHARING])
def test_checkpoint_is_what_torch_saves(sharing: Any) -> None:
    model = build(config(encoder_conf={"sharing": sharing}))
    file = io.BytesIO()
    torch.save(dict(model.state_dict()), file)
    assert count_checkpoint_bytes(model) == file.tell()
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert file.tell() > 4 * stored


def test_tiny_sizes_are_those_of_the_formulas() -> None:
    names = ("output_size", "linear_units", "cnn_module_kernel", "num_blocks")
    assert [ENCODER[name] for name in names] == [D, H, K, LAYERS]
