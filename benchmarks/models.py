"""Encoders of configurations, and what goes into them, for benchmarks that need no data."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class EncoderSettings:
    """An encoder's class and arguments, small enough to be handed to another process.

    Attributes:
        module: Where its class is.
        name: Of its class.
        input_size: Features per frame.
        arguments: ``encoder_conf``.
        frames_per_second: Of the features.
    """

    module: str
    name: str
    input_size: int
    arguments: dict[str, Any]
    frames_per_second: float

    @classmethod
    def read(cls, config: Path) -> EncoderSettings:
        """Of the YAML of a training, or of an experiment's config.yaml."""
        import humanfriendly
        from espnet2.tasks.asr import encoder_choices

        from espnet_moe_share.profiling.configuration import read_complete_arguments

        options = read_complete_arguments(config, vocab_size=4)
        encoder = encoder_choices.get_class(options.encoder)
        size, rate = options.input_size, 100.0
        if size is None:
            frontend = options.frontend_conf
            fs = frontend.get("fs", 16000)
            fs = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
            size, rate = frontend.get("n_mels", 80), fs / frontend.get("hop_length", 128)
        return cls(encoder.__module__, encoder.__name__, size, options.encoder_conf, rate)

    def changed(self, **arguments: Any) -> EncoderSettings:
        """The same with other arguments."""
        return replace(self, arguments={**self.arguments, **arguments})

    def takes(self, argument: str) -> bool:
        """Whether the class has an argument of that name."""
        return argument in inspect.signature(self.encoder_class()).parameters

    def encoder_class(self) -> Any:
        """Import it."""
        return getattr(import_module(self.module), self.name)

    def build(self) -> Any:
        """Make it, with random weights that are the same every time."""
        torch.manual_seed(0)
        return self.encoder_class()(input_size=self.input_size, **self.arguments)

    def record(self) -> dict[str, Any]:
        """What :class:`EncoderSettings` takes, for JSON."""
        return asdict(self)


def features_of(
    settings: EncoderSettings, seconds: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, L, input_size) of utterances of these lengths, noise, and the lengths (B,)."""
    lengths = torch.tensor([round(one * settings.frames_per_second) for one in seconds])
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), int(lengths.max()), settings.input_size)
    return torch.randn(shape, generator=generator), lengths


def spread_lengths(utterances: int, mean: float, width: float = 0.2) -> list[float]:
    """Seconds of a batch's utterances, evenly from ``1 - width`` to ``1 + width`` times ``mean``.

    ESPnet puts utterances of similar length together; some padding remains.
    """
    if utterances == 1:
        return [mean]
    return [mean * (1 + width * (2 * n / (utterances - 1) - 1)) for n in range(utterances)]


def balance_routers(
    encoder: torch.nn.Module, features: torch.Tensor, lengths: torch.Tensor
) -> float:
    """Make routers of random weights choose among all experts, as trained ones do.

    Frames of an untrained encoder have much in common, so that one expert would get most of them,
    and one large matrix product is faster than several small ones. What is common, the mean of a
    router's inputs, is taken out of its weight. An encoder without experts is run all the same, so
    that what is measured next finds both in the same state.

    Returns:
        The largest share that an expert of a layer then has, averaged over the layers; 1 if there
        are no experts. Even shares would be 1 / num_experts.
    """
    from espnet_moe_share.experts.feed_forward import MixtureOfExperts

    layers = [part for part in encoder.modules() if isinstance(part, MixtureOfExperts)]

    def take_mean_out(layer: MixtureOfExperts, inputs: tuple[torch.Tensor]) -> None:
        mean = inputs[0].flatten(0, -2).mean(dim=0)
        weight = layer.router.weight
        if weight.size(1) == mean.size(0):
            weight -= torch.outer(weight @ mean, mean) / mean.square().sum()

    hooks = [layer.register_forward_pre_hook(take_mean_out) for layer in layers]
    training = encoder.training
    with torch.no_grad():
        encoder.eval()(features, lengths)
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.recorder = []
        encoder(features, lengths)
    encoder.train(training)
    largest = []
    for layer in layers:
        assert layer.recorder
        chosen = torch.cat([routing.expert_ids_NK.flatten() for routing in layer.recorder])
        largest.append(float(chosen.bincount().max() / chosen.numel()))
        layer.recorder = None
    return sum(largest) / len(largest) if largest else 1.0
