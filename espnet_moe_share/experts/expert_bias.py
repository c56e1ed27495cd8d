"""Loss-free balancing: a bias per expert that steers the choice towards an even load.

Wang et al. 2024 (arXiv 2408.15664, "Auxiliary-Loss-Free Load Balancing Strategy for
Mixture-of-Experts"). Experts are chosen by p + b, while the gate stays the unbiased probability p.
After each training step

    b_e <- b_e + u * sign(mean(c) - c_e)

with c_e the choices of expert e in that step and u the ``bias_update_rate``. As torchtitan does,
the mean of that change is taken off again: it would alter no choice, but let all b drift to where
float32 no longer tells probabilities apart.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.counts import RoutingCounts


class ExpertBias(torch.nn.Module):
    """Bias b of one expert layer: part of the checkpoint, without gradient.

    It belongs to one layer, also when experts or routers are shared, since it answers that
    layer's own load; sharing rules do not reach it.

    Args:
        num_experts: E.
        update_rate: u.
    """

    bias: torch.Tensor

    def __init__(self, num_experts: int, update_rate: float) -> None:
        super().__init__()
        self.update_rate = update_rate
        self.counted = False
        # float: ESPnet averages checkpoints' floats, but adds up their integers
        self.register_buffer("bias", torch.zeros(num_experts))

    def forward(self) -> torch.Tensor:
        """Return b (E,).

        Raises:
            ConfigurationError: In training, when no :class:`LossFreeBalancing` updates it.
        """
        if self.training and not self.counted:
            raise ConfigurationError(
                "encoder_conf experts: 'bias_update_rate' needs 'model: moe_share', which counts "
                "the choices of every training step"
            )
        return self.bias

    @torch.no_grad()
    def update(self, counts_E: torch.Tensor) -> None:
        """Change b by one step.

        Args:
            counts_E: Choices of each expert in the step (E,), integers.
        """
        counts_E = counts_E.to(self.bias.device)
        # mean(c) - c_e times E: exact in integers
        sign_E = (counts_E.sum() - counts_E.numel() * counts_E).sign().to(self.bias.dtype)
        self.bias += self.update_rate * (sign_E - sign_E.mean())


class _StepCounter:
    """Number of steps that optimisers took in this process."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, *args: Any) -> None:
        self.taken += 1


@cache
def _optimizer_steps() -> _StepCounter:
    counter = _StepCounter()
    register_optimizer_step_post_hook(counter)
    return counter


class LossFreeBalancing:
    """Counts the choices of training forwards and updates the biases from them.

    A bias must not change between the forwards of one training step: gradient accumulation has
    several, and gradient checkpointing runs a forward again in the backward pass. Counts are
    therefore kept until an optimiser has taken a step (one that is skipped for want of a finite
    gradient is none), and used at the beginning of what comes next: a training forward, or
    evaluation, before which ESPnet's trainer writes no checkpoint.

    Not a torch.nn.Module: it has no state of its own that a checkpoint would need.

    Args:
        module: What holds the expert layers; all paths are below it.

    Attributes:
        biases: Path of the expert layer -> its bias.
        buffer_paths: Paths of the biases' buffers.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        found = {p: bias for p, bias in module.named_modules() if isinstance(bias, ExpertBias)}
        # path of the expert layer -> its bias
        self.biases = {path.rpartition(".")[0]: bias for path, bias in found.items()}
        self.buffer_paths = [f"{path}.bias" for path in found]
        self._counts_LE: torch.Tensor | None = None  # L layers
        self._counted_at = 0
        for bias in self.biases.values():
            bias.counted = True
        if self.biases:
            _optimizer_steps()

    def count(self, counts: Mapping[str, RoutingCounts]) -> None:
        """Add the choices of one training forward, over all processes.

        Args:
            counts: Path of the expert layer -> its counts, those of all processes together.
        """
        if not self.biases:
            return
        choices_LE = torch.stack([counts[path].choices_E for path in self.biases])
        self._counts_LE = choices_LE if self._counts_LE is None else self._counts_LE + choices_LE
        self._counted_at = _optimizer_steps().taken

    def update(self) -> None:
        """Update all biases if a step has ended since the last count; otherwise do nothing."""
        if self._counts_LE is None or _optimizer_steps().taken == self._counted_at:
            return
        for bias, counts_E in zip(self.biases.values(), self._counts_LE):
            bias.update(counts_E)
        self._counts_LE = None
