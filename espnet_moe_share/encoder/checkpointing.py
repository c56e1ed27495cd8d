"""Gradient checkpointing of encoder layers: less memory for a second forward pass.

Of a checkpointed layer only the input is kept for the backward pass, which runs the layer again
(Chen et al. 2016, arXiv 1604.06174). In ESPnet the E-Branchformer alone has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from espnet_moe_share.errors import ConfigurationError


@contextmanager
def _statistics_as_they_are(layer: torch.nn.Module) -> Iterator[None]:
    """The second run sees the same frames again: batch norms must not count them twice."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class _Checkpointed(torch.nn.Module):
    """To be named before the class of a layer. Its hooks run in both passes, as they have to."""

    def __call__(self, *args: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return super().__call__(*args)
        contexts = lambda: (nullcontext(), _statistics_as_they_are(self))  # noqa: E731
        return checkpoint(super().__call__, *args, use_reentrant=False, context_fn=contexts)

    def __reduce__(self) -> tuple[Any, ...]:
        # by the class of ESPnet: no module has this one's name for pickle to find
        return _new, (type(self).__bases__[1],), self.__dict__


@cache
def _checkpointed(layer_class: type) -> type:
    return type(layer_class.__name__, (_Checkpointed, layer_class), {})


def _new(layer_class: type) -> torch.nn.Module:
    """A checkpointed layer without contents, for copying and unpickling."""
    layer: torch.nn.Module = torch.nn.Module.__new__(_checkpointed(layer_class))
    return layer


def check_numbers(numbers: Any, first: int, num_blocks: int) -> None:
    """Check ``gradient_checkpoint_layers``.

    Args:
        numbers: The option's value.
        first: Lowest number that can be checkpointed: 1, or 0 where that is the input layer.
        num_blocks: Number of encoder layers.

    Raises:
        ConfigurationError: It is no list of numbers of layers.
    """
    is_list = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not is_list or not all(first <= number <= num_blocks for number in numbers):
        raise ConfigurationError(
            f"gradient_checkpoint_layers must be a list of numbers from {first} to {num_blocks}, "
            f"of which 1 is the first layer, not {numbers!r}"
        )


def checkpoint_layers(layers: MultiSequential, numbers: list[int]) -> None:
    """Have layers checkpointed in training; in place, all their names and tensors stay.

    Args:
        layers: ESPnet's stack of encoder layers.
        numbers: Which, counted from 1 as in ESPnet's E-Branchformer.
    """
    for number in set(numbers):
        layer = layers[number - 1]
        # not a module around the layer, which would change the keys of the checkpoint
        layer.__class__ = _checkpointed(type(layer))  # type: ignore[arg-type]
