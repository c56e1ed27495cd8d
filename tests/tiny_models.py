"""Models and batches small enough to build by the dozen, for all tests.

Imports of torch and ESPnet are inside the functions, so that tests of light modules stay light.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import yaml

TOKENS = ["<blank>", "<unk>", "a", "b", "c", "d", "<sos/eos>"]
MELS = 20

_SIZE = {
    "output_size": 8,
    "attention_heads": 2,
    "linear_units": 12,
    "num_blocks": 4,
    "input_layer": "conv2d6",
}
ENCODERS: dict[str, dict[str, Any]] = {
    "conformer": {
        **_SIZE,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "cnn_module_kernel": 3,
    },
    "transformer": _SIZE,
    "e_branchformer": {
        **_SIZE,
        "cgmlp_linear_units": 16,
        "cgmlp_conv_kernel": 3,
        "use_ffn": True,
        "macaron_ffn": True,
    },
}
ENCODER = ENCODERS["conformer"]
EXPERTS = {"num_experts": 4, "top_k": 1, "modules": ["feed_forward"]}
# Narrower than the encoder, so that the two cannot be taken for one another.
EMBEDDING_NETWORK = {
    "output_size": 6,
    "attention_heads": 2,
    "linear_units": 10,
    "num_blocks": 2,
    "rel_pos_type": "latest",
    "cnn_module_kernel": 3,
}
SHARING = [{"modules": ["*"], "except": ["*norm*", "*.router"], "groups": 2}]


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of ``base`` with ``changes`` laid over it, nested mappings too."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else copy.deepcopy(value)
    return merged


def config(**changes: Any) -> dict[str, Any]:
    """config.yaml of a tiny student with experts and sharing."""
    base = {
        "token_list": TOKENS,
        "token_type": "char",
        "bpemodel": None,
        "input_size": None,
        "init": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": MELS},
        "specaug": None,
        "specaug_conf": {},
        "normalize": "utterance_mvn",
        "normalize_conf": {"norm_means": True, "norm_vars": True},
        "preencoder": None,
        "preencoder_conf": {},
        "encoder": "moe_share_conformer",
        "encoder_conf": {**ENCODER, "experts": EXPERTS, "sharing": SHARING},
        "postencoder": None,
        "postencoder_conf": {},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 12, "num_blocks": 1},
        "ctc_conf": {},
        "joint_net_conf": None,
        "model": "moe_share",
        "model_conf": {"ctc_weight": 0.5, "report_wer": False},
    }
    return merge(base, changes)


SPECAUG = {
    "specaug": "specaug",
    "specaug_conf": {"freq_mask_width_range": [0, 5], "time_mask_width_range": [0, 9]},
}


def dense_config(**changes: Any) -> dict[str, Any]:
    """config.yaml of the dense Conformer of the same size, ESPnet's classes throughout."""
    base = config()
    base.update(encoder="conformer", encoder_conf=dict(ENCODER), model="espnet")
    return merge(base, changes)


def encoder_config(name: str, **changes: Any) -> dict[str, Any]:
    """config.yaml of ``config()``'s student with another encoder of ours or of ESPnet's."""
    settings = config()
    settings.update(encoder=name, encoder_conf=copy.deepcopy(ENCODERS[_plain(name)]))
    if name != _plain(name):
        settings["encoder_conf"].update(experts=EXPERTS, sharing=SHARING)
    return merge(settings, changes)


def speechmoe_config(**changes: Any) -> dict[str, Any]:
    """config.yaml of a tiny SpeechMoE: an embedding network, its losses, nothing shared."""
    settings = config(
        encoder_conf={"embedding_network": EMBEDDING_NETWORK, "sharing": None},
        model_conf={
            "sparsity_weight": 0.15,
            "importance_weight": 0.15,
            "embedding_ctc_weight": 0.01,
        },
    )
    return merge(settings, changes)


def _plain(name: str) -> str:
    return name.removeprefix("moe_share_")


def build(settings: dict[str, Any], seed: int = 0) -> Any:
    """Build a model from the mapping of a config.yaml."""
    import torch

    from espnet_moe_share.task import ASRTask

    torch.manual_seed(seed)
    return ASRTask.build_model(argparse.Namespace(**copy.deepcopy(settings)))


def save(folder: Path, settings: dict[str, Any], model: Any) -> dict[str, str]:
    """Write config.yaml and model.pth; return their paths as ``model_conf`` names a teacher's."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    torch.save(model.state_dict(), folder / "model.pth")
    return {
        "teacher_config": str(folder / "config.yaml"),
        "teacher_model_file": str(folder / "model.pth"),
    }


def encoder(seed: int = 0, name: str = "moe_share_conformer", **changes: Any) -> Any:
    """A tiny encoder over ``MELS`` features; ``input_layer`` linear unless told.

    ``name`` is that of a configuration: ``e_branchformer`` gives ESPnet's own.
    """
    import torch
    from espnet2.tasks.asr import encoder_choices

    import espnet_moe_share

    espnet_moe_share.register()
    torch.manual_seed(seed)
    settings = {**ENCODERS[_plain(name)], "input_layer": "linear", **changes}
    return encoder_choices.get_class(name)(MELS, **settings)


def randomize(module: Any, seed: int = 7) -> Any:
    """Give every tensor another value, the ones that start as 0 or 1 too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module


def batch(seed: int = 0, lengths: tuple[int, ...] = (12000, 9000, 7000)) -> dict[str, Any]:
    """Noise with texts, as ESPnet's collate function would pad them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    speech = torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in enumerate(lengths):
        speech[row, length:] = 0.0
    text_lengths = torch.tensor([3 - row % 2 for row in range(len(lengths))])
    text = torch.randint(2, 6, (len(lengths), 3), generator=generator)
    text[torch.arange(3) >= text_lengths.unsqueeze(1)] = -1
    return {
        "speech": speech,
        "speech_lengths": torch.tensor(lengths),
        "text": text,
        "text_lengths": text_lengths,
    }


def features(seed: int = 0, lengths: tuple[int, ...] = (20, 15, 9)) -> tuple[Any, Any]:
    """Feature frames (B, T, MELS) and their lengths."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), MELS, generator=generator)
    for row, length in enumerate(lengths):
        x[row, length:] = 0.0
    return x, torch.tensor(lengths)
