"""The embedding network: what the routers of all layers see beside their layer's own input."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.utils.get_default_kwargs import get_default_kwargs

from espnet_moe_share.checks import check_mapping, check_mapping_keys
from espnet_moe_share.errors import ConfigurationError

# Arguments of ESPnet's encoder that are ours to set, or that would change what it returns.
_FIXED = (
    *("input_size", "input_layer", "padding_idx"),
    *("interctc_layer_idx", "interctc_use_conditioning", "ctc_trim"),
)
_ATTRIBUTE = "router_embedding"


class EmbeddingNetwork(ConformerEncoder):
    """A small Conformer over the subsampled features, whose output every router sees.

    You et al. 2021 (Interspeech, "SpeechMoE: Scaling to Large Acoustic Models with Dynamic Routing
    Mixture of Experts"): p = softmax(W [e; x]) with the output e of a network that all expert
    layers have in common, and the input x of the expert layer itself. That the network is a
    Conformer, and that its output is detached, is as in the authors' later code
    (tencent-ailab/3m-asr). That it reads the features behind the encoder's own subsampling is our
    choice: there it has a subsampling of its own.

    Dimension letters: B batch, T time after subsampling, D width of the encoder, De width of the
    embedding (the network's ``output_size``).

    Args:
        size: D.
        detach: Whether the routers' gradient ends at the embedding, so that the network learns
            from its own CTC loss alone.
        settings: Arguments of ESPnet's ``ConformerEncoder``.
    """

    def __init__(self, size: int, detach: bool = True, **settings: Any) -> None:
        super().__init__(size, input_layer="linear", **settings)
        self.detach = detach

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], size: int) -> "EmbeddingNetwork":
        """Build the network that ``encoder_conf`` describes.

        Args:
            settings: ``detach`` (default true) and arguments of ESPnet's ``ConformerEncoder``.
            size: D.

        Raises:
            ConfigurationError: An unknown key, or a value that cannot be.
        """
        contents = "of detach and arguments of ESPnet's ConformerEncoder"
        check_mapping("embedding_network", settings, contents)
        for key in settings:
            if key in _FIXED:
                raise ConfigurationError(
                    f"embedding_network: '{key}' cannot be chosen; the network reads the encoder's "
                    "subsampled features and has one output"
                )
        known = ["detach", *(k for k in get_default_kwargs(ConformerEncoder) if k not in _FIXED)]
        check_mapping_keys("embedding_network", settings, known)
        if not isinstance(settings.get("detach", True), bool):
            raise ConfigurationError(
                f"embedding_network: 'detach' must be true or false, not {settings['detach']!r}"
            )
        try:
            return cls(size, **settings)
        except Exception as error:  # ESPnet checks settings in many ways, some of them not at all
            reason = str(error).partition("\n")[0] or "an assertion of its constructor fails"
            raise ConfigurationError(
                "embedding_network: ESPnet's ConformerEncoder cannot be built from "
                f"{dict(settings)!r}: {reason}"
            ) from error

    @contextmanager
    def seen_by_routers(
        self,
        embed: torch.nn.Module,
        layers: Iterable[torch.nn.Module],
        frame_mask: Callable[[], torch.Tensor],
    ) -> Iterator[None]:
        """While it lasts, run the network behind ``embed`` and hand its output to ``layers``.

        The embedding travels on the mask that ESPnet gives to every layer. So gradient
        checkpointing, which runs a layer again when this context is long gone, has it then, too.

        Args:
            embed: ESPnet's input layer.
            layers: ESPnet's encoder layers, which are called with (input, mask).
            frame_mask: Makes the mask (B, 1, T) for an ``embed`` that is not called with one.
        """
        embedding: list[torch.Tensor] = []

        def run(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # Called with a mask, it is a subsampling, and returns its mask with the output.
            x, mask = output if len(args) > 1 else (output, frame_mask())
            x_BTD = x[0] if isinstance(x, tuple) else x  # (features, positional encoding)
            e_BTD, _, _ = self(x_BTD, mask.sum(dim=(1, 2)), masks=~mask.squeeze(1))
            embedding.append(e_BTD.detach() if self.detach else e_BTD)

        def hand_over(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
            setattr(args[1], _ATTRIBUTE, embedding[0])

        handles = [embed.register_forward_hook(run)]
        # before the hook that takes the mask to the experts
        handles += [layer.register_forward_pre_hook(hand_over, prepend=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def router_embedding(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the embedding (B, T, De) that travels on a layer's mask, if there is one."""
    return getattr(mask, _ATTRIBUTE, None)


@contextmanager
def record_embedding(
    network: torch.nn.Module,
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Record what an embedding network returns.

    Yields:
        Embedding (B, T, De), not detached, and its lengths (B,), of every call; filled as the
        encoder runs.
    """
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = network.register_forward_hook(lambda module, args, output: calls.append(output[:2]))
    try:
        yield calls
    finally:
        handle.remove()
