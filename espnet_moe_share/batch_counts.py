"""How large a training batch is: the part of it that one process has, or all of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from espnet_moe_share.experts.counts import RoutingCounts

_LAYER = [field.name for field in fields(RoutingCounts)]


@dataclass(frozen=True)
class BatchCounts:
    """What the losses take their means over.

    Attributes:
        utterances: Batch size (1,), int64.
        encoder_frames: Valid frames at the encoder's output (), int64; 0 if nobody counts them.
        routing: Path of the expert layer -> its sums over frames.
    """

    utterances: torch.Tensor
    encoder_frames: torch.Tensor
    routing: Mapping[str, RoutingCounts]

    def over_all_processes(self) -> "BatchCounts":
        """Add up the counts of all processes of a distributed training, in one all-reduce.

        Every process has to call it as often as the others, and with the same layers, whether
        they ran or not; otherwise all wait for each other for ever.
        """
        own = [self.utterances, self.encoder_frames]
        for layer in self.routing.values():
            own += [getattr(layer, name) for name in _LAYER]
        # float64 holds every number of frames exactly
        flat = torch.cat([number.reshape(-1).double() for number in own])
        torch.distributed.all_reduce(flat)
        parts = flat.split([number.numel() for number in own])
        utterances, encoder_frames, *rest = (
            part.view_as(number).to(number.dtype) for part, number in zip(parts, own)
        )
        return BatchCounts(
            utterances,
            encoder_frames,
            {
                path: RoutingCounts(*numbers)
                for path, *numbers in zip(
                    self.routing, *(rest[i :: len(_LAYER)] for i in range(len(_LAYER)))
                )
            },
        )


def is_distributed() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
