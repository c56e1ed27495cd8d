"""Give frames to other experts than the router's: how much worse does the model get?

Gu et al. 2025 (Omni-router) test in this way how far experts have specialised; how exactly they
re-assign is not known to us. Ours: in a shuffled layer, all frames that the router sends to
expert e go to expert pi(e), with the gate that the router gave e. pi is drawn at random for each
layer, and leaves no expert in its place. Nothing else changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from espnet_moe_share.experts.feed_forward import MixtureOfExperts


def expert_layers(module: torch.nn.Module) -> dict[str, MixtureOfExperts]:
    """Path below ``module`` -> expert layer, for all that have a choice."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, MixtureOfExperts) and layer.router.weight.size(0) > 1
    }


def draw_derangement(num_experts: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw a permutation (E,) without a fixed point, all of them alike likely; E > 1."""
    while True:
        permutation = rng.permutation(num_experts)
        if (permutation != np.arange(num_experts)).all():
            return torch.from_numpy(permutation)


@contextmanager
def shuffled_experts(
    module: torch.nn.Module, permutations: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Send frames to other experts for as long as the block lasts.

    Args:
        module: Holds the expert layers.
        permutations: Path of an expert layer below it -> pi (E,).
    """
    layers = expert_layers(module)
    with ExitStack() as stack:
        for path, permutation in permutations.items():
            # Not the router's weights: layers may share them, and must be shuffled apart.
            handle = layers[path].router.register_forward_hook(_Redirect(permutation))
            stack.callback(handle.remove)
        yield


class _Redirect:
    def __init__(self, permutation: torch.Tensor) -> None:
        self.permutation = permutation

    def __call__(
        self,
        router: torch.nn.Module,
        inputs: tuple[torch.Tensor, ...],
        output: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        logits_NE, p_NE, expert_ids_NK, gates_NK = output
        shuffled_NK = self.permutation.to(expert_ids_NK.device)[expert_ids_NK]
        return logits_NE, p_NE, shuffled_NK, gates_NK
