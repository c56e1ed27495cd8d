"""How large a training batch is: the part of it that one process has, or all of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from espnet_moe_share.experts.counts import RoutingCounts


@dataclass(frozen=True)
class BatchCounts:
    """What the losses take their means over, in whole numbers.

    Attributes:
        utterances: Batch size (1,), int64.
        encoder_frames: Valid frames at the encoder's output (), int64; 0 if nobody counts them.
        routing: Path of the expert layer -> its frames and choices.
    """

    utterances: torch.Tensor
    encoder_frames: torch.Tensor
    routing: Mapping[str, RoutingCounts]

    def over_all_processes(self) -> "BatchCounts":
        """Add up the counts of all processes of a distributed training, in one all-reduce.

        Every process has to call it as often as the others, and with the same layers, whether
        they ran or not; otherwise all wait for each other for ever.
        """
        layers = list(self.routing.values())
        own = [self.utterances, self.encoder_frames]
        for layer in layers:
            own += [layer.frames, layer.choices_E, layer.dropped]
        flat = torch.cat([number.reshape(-1) for number in own])
        torch.distributed.all_reduce(flat)
        parts = flat.split([number.numel() for number in own])
        utterances, encoder_frames, *rest = (
            part.view_as(number) for part, number in zip(parts, own)
        )
        return BatchCounts(
            utterances,
            encoder_frames,
            {
                path: RoutingCounts(*numbers)
                for path, *numbers in zip(self.routing, rest[::3], rest[1::3], rest[2::3])
            },
        )


def is_distributed() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
