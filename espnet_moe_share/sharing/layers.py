"""A stack of encoder layers some of whose parameters are one and the same.

Every layer keeps its own modules; only the tensors inside are tied. Attention plots, hooks and
module names therefore still tell the layers apart, while PyTorch's optimisers, distributed
training and parameter counts, which all recognise a parameter by identity, see each one once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.repeat import MultiSequential

from espnet_moe_share.checkpoint import check_keys
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.expert_bias import ExpertBias
from espnet_moe_share.sharing.rules import SharingRule


def layers_label(layers: Sequence[int]) -> str:
    """Name a group of ascending layers: ``0-5`` for neighbours, ``0,2,4`` otherwise."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))


def shareable_tensors(layer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield path and tensor of what rules can share.

    That is not the bias of loss-free balancing, which is each layer's own.
    """
    yield from layer.named_parameters()
    for path, buffer in layer.named_buffers():
        if not isinstance(layer.get_submodule(path.rpartition(".")[0]), ExpertBias):
            yield path, buffer


def holder_of(layer: torch.nn.Module, path: str) -> dict[str, Any]:
    """Return the dictionary of the submodule that holds the parameter or buffer at a path."""
    module_path, _, name = path.rpartition(".")
    module = layer.get_submodule(module_path)
    return module._parameters if name in module._parameters else module._buffers


def _tie_again(layers: torch.nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(layers, SharedLayers)
    layers._tie()


class SharedLayers(MultiSequential):
    """ESPnet's stack of encoder layers with tied tensors.

    In a state dict every shared tensor stands once, under a key that names its layers:
    ``encoders.0-5.self_attn.linear_q.weight``. So a checkpoint is as small as the model, and
    one of another grouping has other keys, which loading refuses whatever ``strict`` says.
    A tensor of a single layer keeps ESPnet's key (``encoders.3.norm_ff.weight``).

    Args:
        layers: The layers; tied in place.
        rules: Which tensors are shared; no tensor by more than one rule.
        layer_drop_rate: Handed to ESPnet's MultiSequential.

    Raises:
        ConfigurationError: A rule's pattern matches nothing, two rules share the same
            tensor, or shapes within a group differ.
    """

    def __init__(
        self,
        layers: Sequence[torch.nn.Module],
        rules: Sequence[SharingRule],
        layer_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(*layers, layer_drop_rate=layer_drop_rate)
        # path -> the groups of layers that have this tensor in common
        self.shared_paths: dict[str, tuple[tuple[int, ...], ...]] = {}
        ruled_by: dict[str, str] = {}
        paths = [path for path, _ in shareable_tensors(layers[0])]
        for rule in rules:
            for path in rule.select(paths):
                if path in ruled_by:
                    raise ConfigurationError(
                        f"{rule.name} shares '{path}', which {ruled_by[path]} shares already; "
                        "name it in 'except' of one of them"
                    )
                ruled_by[path] = rule.name
                self.shared_paths[path] = rule.groups
        self._check_shapes(ruled_by)
        self._tie()
        # load_state_dict(assign=True) gives every layer new tensors
        self.register_load_state_dict_post_hook(_tie_again)

    def _check_shapes(self, ruled_by: dict[str, str]) -> None:
        tensors = [dict(shareable_tensors(layer)) for layer in self]
        for path, groups in self.shared_paths.items():
            for group in groups:
                shapes = {
                    layer: getattr(tensors[layer].get(path), "shape", None) for layer in group
                }
                if len(set(shapes.values())) > 1:
                    raise ConfigurationError(
                        f"{ruled_by[path]} shares '{path}' over layers of different shapes: "
                        + ", ".join(f"layer {n} {shape}" for n, shape in shapes.items())
                    )

    def _tie(self) -> None:
        for path, groups in self.shared_paths.items():
            for group in groups:
                first = holder_of(self[group[0]], path)
                name = path.rpartition(".")[2]
                for layer in group[1:]:
                    holder_of(self[layer], path)[name] = first[name]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "SharedLayers":
        # .to(), .half() and the like replace buffers (and some parameters) by new tensors, module
        # by module: without tying again, shared running statistics would drift apart.
        super()._apply(fn, recurse)
        self._tie()
        return self

    def shared_key(self, key: str) -> str:
        """Turn ``3.self_attn.linear_q.weight`` into the key of the state dict, ``0-5.self_…``."""
        layer, _, path = key.partition(".")
        for group in self.shared_paths.get(path, ()):
            if int(layer) in group:
                return f"{layers_label(group)}.{path}"
        return key

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any
    ) -> Any:
        """Return the state dict with each shared tensor once; see the class's docstring."""
        state = super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)
        for key in [key for key in state if key.startswith(prefix)]:
            shared = prefix + self.shared_key(key[len(prefix) :])
            if shared != key:
                state[shared] = state.pop(key)
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = {
            f"{number}.{path}": prefix + self.shared_key(f"{number}.{path}")
            for number, layer in enumerate(self)
            for path in layer.state_dict()
        }
        found = {key for key in state_dict if key.startswith(prefix)}
        check_keys(set(own.values()), found, prefix.rstrip(".") or "encoder layers")
        values = {key: state_dict[key] for key in found}
        for key in found:
            del state_dict[key]
        state_dict.update({prefix + key: values[shared] for key, shared in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
