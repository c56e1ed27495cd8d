"""A trained model that says of every recording what its routers decide and what it recognises."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.recording import record_routing, routing_by_layer
from espnet_moe_share.experts.routing import Routing
from espnet_moe_share.usage.greedy_ctc import collapse
from espnet_moe_share.usage.shuffle import expert_layers


@dataclass(frozen=True)
class Encoded:
    """One utterance after the encoder.

    Attributes:
        routings: Path of the expert layer -> what it decided, N frames.
        frame_tokens: Likeliest token of every frame by CTC (N); None without a CTC head.
    """

    routings: Mapping[str, Routing]
    frame_tokens: list[int] | None


class UsageModel:
    """A trained model, ready to encode one recording after another.

    Args:
        model: In evaluation mode from here on.
        token_list: Its tokens.
        to_text: Joins tokens to text, as the tokenizer of its training does.
        sampling_rate: Of the speech that it was trained on, in Hz.
        device: Where it runs.

    Raises:
        ConfigurationError: It has no expert layers.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        token_list: list[str],
        to_text: Callable[[Iterable[str]], str],
        sampling_rate: int = 16000,
        device: str = "cpu",
    ) -> None:
        self.model = model.eval().to(device)
        self.token_list = token_list
        self.to_text = to_text
        self.sampling_rate = sampling_rate
        self.device = device
        self.layers = expert_layers(model.encoder)
        with record_routing(model.encoder) as records:
            if not records:
                raise ConfigurationError("the model has no expert layers, so nothing to measure")

    @property
    def has_ctc(self) -> bool:
        """Whether there are tokens to be had: ESPnet's model has no CTC with ``ctc_weight`` 0."""
        return getattr(self.model, "ctc", None) is not None

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> Encoded:
        """Encode one recording (samples,).

        Raises:
            ConfigurationError: It is too short.
        """
        too_short = f"{len(samples)} samples are too short for the encoder; leave it out"
        stft = getattr(self.model.frontend, "stft", None)
        # The Fourier transform mirrors half a window at either end, and one needs more than that.
        if len(samples) <= (0 if stft is None else stft.n_fft // 2):
            raise ConfigurationError(too_short)
        speech = torch.from_numpy(samples).unsqueeze(0).to(self.device)
        lengths = torch.tensor([speech.size(1)], device=self.device)
        with record_routing(self.model.encoder) as records:
            try:
                encoder_out, _ = self.model.encode(speech, lengths)
            except TooShortUttError:
                raise ConfigurationError(too_short) from None
        if isinstance(encoder_out, tuple):  # with the outputs of intermediate CTC
            encoder_out = encoder_out[0]
        tokens = self.model.ctc.argmax(encoder_out)[0].tolist() if self.has_ctc else None
        return Encoded(routing_by_layer(self.model.encoder, records), tokens)

    def text(self, encoded: Encoded) -> str:
        """What greedy CTC recognises."""
        tokens = collapse(encoded.frame_tokens or [])
        return self.to_text(self.token_list[token.number] for token in tokens)

    @classmethod
    def from_files(
        cls, config: Path | str, model_file: Path | str, device: str = "cpu"
    ) -> "UsageModel":
        """Load a trained model.

        Args:
            config: config.yaml of the training.
            model_file: Its weights.
            device: ``cpu`` or ``cuda``.

        Raises:
            ConfigurationError: A file is missing, or the model has no expert layers.
            CheckpointMismatchError: The weights are of another model.
        """
        import humanfriendly  # of ESPnet, which reads a sampling rate such as 16k with the same
        from espnet2.text.build_tokenizer import build_tokenizer

        from espnet_moe_share.task import ASRTask

        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigurationError(f"no {device} device here; run it on the CPU (--ngpu 0)")
        model, options = ASRTask.build_model_from_file(config, model_file, device)
        if options.token_type == "bpe" and not Path(str(options.bpemodel)).is_file():
            raise ConfigurationError(
                f"{options.bpemodel}, the bpemodel of {config}, is not here; run this in the "
                "recipe's directory"
            )
        tokenizer = build_tokenizer(options.token_type, options.bpemodel)
        rate = options.frontend_conf.get("fs", 16000)
        rate = humanfriendly.parse_size(rate) if isinstance(rate, str) else rate
        return cls(model, options.token_list, tokenizer.tokens2text, rate, device)
