"""What is exported of an ASR model: waveform -> features -> encoder -> CTC, for one utterance."""

import copy

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.export.positions import compute_positions_in_graph

_LONGEST_NEED = 1 << 20  # samples; whoever needs more to make one frame is not what we know


class Features(torch.nn.Module):
    """ESPnet's ``default`` frontend and normalisation, for an utterance without padding.

    The short-time Fourier transform and the log-mel filter bank are ESPnet's own modules. Its
    normalisations are not used as they are: for their mask of padding, of which there is none
    here, they build a matrix of frames by frames.

    Args:
        frontend: ESPnet's.
        normalize: ESPnet's; None: no normalisation.

    Raises:
        ConfigurationError: Another kind of frontend or normalisation.
    """

    def __init__(self, frontend: torch.nn.Module | None, normalize: torch.nn.Module | None) -> None:
        super().__init__()
        if not isinstance(frontend, DefaultFrontend) or frontend.stft is None:
            found = "none" if frontend is None else type(frontend).__name__
            raise ConfigurationError(
                f"the model's frontend is {found}; only 'frontend: default' can be exported"
            )
        enhancement = frontend.frontend
        if enhancement is not None and (enhancement.use_wpe or enhancement.use_beamformer):
            raise ConfigurationError("a frontend with WPE or a beamformer cannot be exported")
        if normalize is not None and not isinstance(normalize, (GlobalMVN, UtteranceMVN)):
            raise ConfigurationError(
                f"the model's normalize is {type(normalize).__name__}; only global_mvn and "
                "utterance_mvn can be exported"
            )
        self.stft = frontend.stft
        self.logmel = frontend.logmel
        self.normalize = normalize

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Args:
            speech: Samples (1, samples), from -1 to 1.

        Returns:
            Normalised log-mel features (1, frames, mels).
        """
        spectrum, _ = self.stft(speech)  # real and imaginary part last
        x, _ = self.logmel(spectrum.square().sum(dim=-1))
        if self.normalize is None:
            return x
        if isinstance(self.normalize, GlobalMVN):
            mean = self.normalize.mean.to(x.dtype)
            std = self.normalize.std.to(x.dtype)
        else:
            mean = x.mean(dim=1, keepdim=True)
            std = (x - mean).square().mean(dim=1, keepdim=True).sqrt().clamp(self.normalize.eps)
        x = x - mean if self.normalize.norm_means else x
        return x / std if self.normalize.norm_vars else x


class CTCEncoder(torch.nn.Module):
    """Encoder and CTC head of an ASR model, for one utterance without padding.

    Args:
        model: A copy of its parts is taken; in evaluation mode.

    Raises:
        ConfigurationError: The model has no CTC head, or a part that cannot be exported.
    """

    def __init__(self, model: ESPnetASRModel) -> None:
        super().__init__()
        if getattr(model, "ctc", None) is None:
            raise ConfigurationError("the model has no CTC head (ctc_weight: 0.0)")
        for name in ("preencoder", "postencoder"):
            if getattr(model, name) is not None:
                raise ConfigurationError(f"a model with a {name} cannot be exported")
        if getattr(model.encoder, "ctc_trim", False):
            raise ConfigurationError(
                "ctc_trim removes as many frames as the data say; such an encoder cannot be "
                "exported"
            )
        # one copy of all, so that what is tied stays tied
        parts = (model.frontend, model.normalize, model.encoder, model.ctc)
        frontend, normalize, self.encoder, self.ctc = copy.deepcopy(parts)
        self.features = Features(frontend, normalize)
        compute_positions_in_graph(self.encoder)
        self.eval()

    def forward(self, speech: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one utterance.

        Args:
            speech: Samples (1, samples), from -1 to 1.

        Returns:
            Encoder output (1, T, D) and log-probabilities of tokens (1, T, V); 0 is blank.
        """
        x = self.features(speech)
        conditioned = getattr(self.encoder, "interctc_use_conditioning", False)
        more = {"ctc": self.ctc} if conditioned else {}
        # Given a mask, ESPnet's encoders make none from lengths, which are no shapes to a tracer.
        no_padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        output = self.encoder(x, None, masks=no_padding, **more)[0]
        if isinstance(output, tuple):  # with what intermediate CTC reads
            output = output[0]
        return output, self.ctc.log_softmax(output)

    @torch.no_grad()
    def min_samples(self) -> int:
        """Find the length of the shortest utterance that the encoder makes two frames of.

        One frame would be a special case to a tracer.

        Raises:
            ConfigurationError: Not even a minute's worth of samples is enough.
        """

        def is_enough(samples: int) -> bool:
            try:
                return self(torch.zeros(1, samples))[0].size(1) > 1
            except (TooShortUttError, RuntimeError):  # torch's: of padding and convolution
                return False

        enough = 1
        while not is_enough(enough):
            enough *= 2
            if enough > _LONGEST_NEED:
                raise ConfigurationError("the encoder cannot be run on silence of any length")
        too_few = enough // 2
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
        return enough
