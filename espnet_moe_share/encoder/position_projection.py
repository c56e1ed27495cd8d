"""The projection of relative positions, computed once for all layers that share its weight.

Relative attention (Dai et al. 2019, Transformer-XL, section 3.3) multiplies the encodings of the
2 T - 1 positions by a matrix of the layer, ESPnet's ``linear_pos``. The encodings are the same in
all layers. Where the matrix is, too, so is the product, which one layer then computes for all. In a
Conformer of width 256 with feed-forwards of 2048 that spares each of the others a twentieth of its
multiplications.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)


class KeptProjections:
    """Products of the forward pass that is running; without one, nothing is kept."""

    def __init__(self) -> None:
        self._products: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None = None

    @contextmanager
    def within_forward(self) -> Iterator[None]:
        """While it lasts, keep products.

        Not longer: weights change, and a product holds the graph that computed it.
        """
        self._products = []
        try:
            yield
        finally:
            self._products = None

    def get(
        self,
        weight: torch.Tensor,
        positions: torch.Tensor,
        project: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return the product of these very tensors, by ``project`` if there is none yet."""
        products = self._products
        if products is None or torch.compiler.is_compiling():
            return project(positions)
        for of_weight, of_positions, product in products:
            if of_weight is weight and of_positions is positions:
                return product
        products.append((weight, positions, project(positions)))
        return products[-1][2]


class PositionProjection(torch.nn.Linear):
    """A ``linear_pos`` whose weight other layers have, too.

    Attributes:
        kept: Of the encoder.
    """

    kept: KeptProjections

    def forward(self, positions_BPD: torch.Tensor) -> torch.Tensor:
        """Project encodings of positions (B or 1, P, D) to (B or 1, P, D)."""
        return self.kept.get(self.weight, positions_BPD, super().forward)


def project_positions_once(
    layers: Sequence[torch.nn.Module], checkpointed: Collection[int]
) -> KeptProjections:
    """Have layers whose ``linear_pos`` is shared compute its product once in a forward pass.

    Args:
        layers: ESPnet's encoder layers, sharing what they share; changed in place, all names and
            tensors stay.
        checkpointed: Numbers, from 1, of layers that gradient checkpointing runs again. They are
            left alone: in the second run there is no other layer that has the product.

    Returns:
        To be told of each forward pass.
    """
    kept = KeptProjections()
    of_weight: dict[torch.Tensor, list[torch.nn.Linear]] = {}
    for number, layer in enumerate(layers, 1):
        for module in layer.modules():
            if number not in checkpointed and isinstance(
                module, (LegacyRelPositionMultiHeadedAttention, RelPositionMultiHeadedAttention)
            ):
                linear = module.linear_pos
                if type(linear) is torch.nn.Linear:  # not two factors
                    of_weight.setdefault(linear.weight, []).append(linear)
    for linears in of_weight.values():
        if len(linears) > 1:
            for linear in linears:
                linear.__class__ = PositionProjection
                linear.kept = kept  # type: ignore[assignment]
    return kept
