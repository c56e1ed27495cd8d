"""The teacher: a trained model beside the student, never a part of it."""

from collections.abc import Callable
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_moe_share.checkpoint import build_strictly
from espnet_moe_share.errors import ConfigurationError


class Teacher:
    """A frozen ESPnet ASR model that encodes the features which the student sees.

    Not a torch.nn.Module on purpose: whatever holds it as an attribute does not register it, so
    that it is absent from state dict, parameter count, optimiser, distributed wrapping and
    ``train()``.

    Args:
        config_file: The teacher's training configuration (``exp/teacher/config.yaml``).
        model_file: Its weights (``exp/teacher/valid.acc.ave.pth``).

    Attributes:
        model: The loaded model, in eval mode; None before :meth:`load`.
    """

    def __init__(self, config_file: str, model_file: str) -> None:
        self.config_file = config_file
        self.model_file = model_file
        self.model: ESPnetASRModel | None = None

    def load(self, student: ESPnetASRModel, output_size: int) -> None:
        """Load the teacher with the student's device and dtype; a second call does nothing.

        Neither the student nor the state of the random generators changes.

        Args:
            student: The model that learns.
            output_size: Width that the teacher's encoder must have.

        Raises:
            ConfigurationError: A file is missing, or the teacher does not fit the student: other
                tokens, frontend, subsampling or width.
            CheckpointMismatchError: The teacher's two files do not belong together.
        """
        if self.model is not None:
            return
        with torch.random.fork_rng():
            model, _ = build_strictly(
                ASRTask.build_model_from_file, self.config_file, self.model_file, "cpu"
            )
        model.requires_grad_(False).eval()
        self._check(model, student, output_size)
        parameter = next(student.parameters())
        self.model = model.to(parameter.device, parameter.dtype)

    def _check(self, teacher: Any, student: Any, output_size: int) -> None:
        if teacher.token_list != student.token_list:
            ours, theirs = student.token_list, teacher.token_list
            differing = [pair for pair in zip(ours, theirs) if pair[0] != pair[1]]
            detail = (
                f"'{differing[0][1]}' instead of '{differing[0][0]}'"
                if differing
                else f"{len(theirs)} tokens instead of {len(ours)}"
            )
            raise ConfigurationError(
                f"teacher {self.config_file} has another token list ({detail}); "
                "train it on the same token list"
            )
        if not _same_frontend(teacher.frontend, student.frontend):
            raise ConfigurationError(
                f"teacher {self.config_file} has another frontend than the student; give both "
                "the same 'frontend' and 'frontend_conf'"
            )
        if teacher.encoder.output_size() != output_size:
            raise ConfigurationError(
                f"teacher {self.config_file} has encoder outputs of width "
                f"{teacher.encoder.output_size()}, not {output_size}; set model_conf "
                f"teacher_output_size: {teacher.encoder.output_size()}"
            )
        lengths = [_output_length(model) for model in (student, teacher)]
        if None not in lengths and lengths[0] != lengths[1]:
            raise ConfigurationError(
                f"teacher {self.config_file} subsamples differently: {_PROBE_FRAMES} frames become "
                f"{lengths[1]}, the student's {lengths[0]}; give both the same 'input_layer'"
            )

    def encode(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode features as the student's own front half left them.

        Args:
            features: After the student's SpecAugment and before its normalisation (B, T, F). The
                teacher normalises them with its own statistics, in place: give a copy.
            lengths: Valid frames (B,).

        Returns:
            Encoder output (B, T', D) and its lengths (B,), without gradient.
        """
        teacher = self.model
        assert teacher is not None, "load() comes first"
        # not inference_mode: its tensors cannot be saved for the student's backward pass
        with torch.no_grad():
            if teacher.normalize is not None:
                features, lengths = teacher.normalize(features, lengths)
            if teacher.preencoder is not None:
                features, lengths = teacher.preencoder(features, lengths)
            # few of ESPnet's encoders have these switches
            conditioned = any(
                getattr(teacher.encoder, switch, False)
                for switch in ("interctc_use_conditioning", "ctc_trim")
            )
            arguments = {"ctc": teacher.ctc} if conditioned else {}
            encoder_out, encoder_out_lens, _ = teacher.encoder(features, lengths, **arguments)
        if isinstance(encoder_out, tuple):  # intermediate CTC: (output, intermediate outputs)
            encoder_out = encoder_out[0]
        return encoder_out, encoder_out_lens

    def apply(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Follow the student's ``_apply``: move to a device, change the dtype."""
        if self.model is not None:
            self.model._apply(fn)


_PROBE_FRAMES = 203  # every subsampling factor and edge rule of ESPnet gives another length


def _same_frontend(one: torch.nn.Module | None, other: torch.nn.Module | None) -> bool:
    """Whether two frontends have the same structure, settings and constants."""
    if one is None or other is None:
        return one is other

    def settings(frontend: torch.nn.Module) -> dict[str, object]:
        return {
            f"{path}.{name}": value
            for path, module in frontend.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, (int, float, str)) and name != "training"
        }

    if type(one) is not type(other) or settings(one) != settings(other):
        return False
    constants, others = dict(one.named_buffers()), dict(other.named_buffers())
    return constants.keys() == others.keys() and all(
        # not equal to the last bit: averaging checkpoints rounds constants such as mel filters
        constants[name].shape == others[name].shape
        # double: the student may have a --train_dtype of its own
        and torch.allclose(
            constants[name].double().cpu(), others[name].double().cpu(), rtol=1e-4, atol=1e-6
        )
        for name in constants
    )


def _output_length(model: Any) -> int | None:
    """Number of encoder frames for a fixed number of feature frames; None: cannot be seen here."""
    embed = getattr(model.encoder, "embed", None)
    size = model.frontend.output_size() if model.frontend is not None else None
    if embed is None or size is None or model.preencoder is not None:
        return None
    training = embed.training
    parameter = next(model.parameters())
    features = torch.zeros(1, _PROBE_FRAMES, size, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        try:
            embed.eval()
            mask = torch.ones(1, 1, _PROBE_FRAMES, dtype=torch.bool, device=parameter.device)
            subsampled = embed(features, mask) if _takes_mask(embed) else embed(features)
        finally:
            embed.train(training)
    while isinstance(subsampled, tuple):  # (output, mask), (output, positions)
        subsampled = subsampled[0]
    return subsampled.size(1)


def _takes_mask(embed: torch.nn.Module) -> bool:
    # ESPnet's encoders call these (input_layer: linear, null) with the features alone
    return not isinstance(embed, (torch.nn.Sequential, torch.nn.Linear))
