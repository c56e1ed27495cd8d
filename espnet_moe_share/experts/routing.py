"""What a router decided in one call of its layer."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Routing:
    """One call of one expert layer; padded frames are not in it.

    Attributes:
        logits_NE: Router logits (N, E), float32 or float64, with gradient.
        probabilities_NE: Softmax of the logits (N, E), with gradient.
        expert_ids_NK: Chosen experts (N, K), best first, dropped ones included.
        experts: A weight of the experts that served it. Layers that share their experts hold the
            very same parameter.
        dropped_NK: True on choices that found their expert full (N, K); None: there was no limit.
    """

    logits_NE: torch.Tensor
    probabilities_NE: torch.Tensor
    expert_ids_NK: torch.Tensor
    experts: torch.nn.Parameter
    dropped_NK: torch.Tensor | None = None
