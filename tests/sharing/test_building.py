"""Sharing while an encoder is being built: the same encoder, with less memory on the way."""

import threading
import weakref
from typing import Any

import pytest
import torch
from tiny_models import ENCODERS, EXPERTS, SHARING, encoder
from torch.nn.modules.module import register_module_parameter_registration_hook

from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder

BLOCKS = 12
EVERYTHING = [{"modules": ["*"], "groups": 2}]
PARTS = [
    {"modules": ["*attn", "*.experts"], "groups": [[0, 3], [1, 5, 6]]},
    {"modules": ["*norm*"], "groups": 3, "order": "cyclic"},
]


def ours(name: str = "conformer", **changes: Any) -> Any:
    settings: dict[str, Any] = {"num_blocks": BLOCKS, "experts": EXPERTS, "sharing": SHARING}
    return encoder(0, f"moe_share_{name}", **{**settings, **changes})


@pytest.mark.parametrize("sharing", [SHARING, EVERYTHING, PARTS], ids=["bai", "all", "parts"])
@pytest.mark.parametrize("name", ENCODERS)
def test_as_if_shared_when_all_layers_are_there(
    name: str, sharing: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = ours(name, sharing=sharing)
    monkeypatch.setattr(type(built), "layer_class", None)
    later = ours(name, sharing=sharing)
    torch.testing.assert_close(built.state_dict(), later.state_dict(), rtol=0, atol=0)
    parameters = [len({id(tensor) for tensor in one.parameters()}) for one in (built, later)]
    assert parameters[0] == parameters[1]


def most_bytes(**changes: Any) -> tuple[int, int]:
    """Bytes of parameters that were there at once while an encoder was built, and in the end."""
    alive: dict[int, weakref.ref[torch.Tensor]] = {}
    most = 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal most
        if parameter is not None:
            alive[id(parameter)] = weakref.ref(parameter)
            there = [one for one in (ref() for ref in alive.values()) if one is not None]
            most = max(most, sum(one.nbytes for one in there))

    handle = register_module_parameter_registration_hook(count)
    try:
        made = ours(**changes)
    finally:
        handle.remove()
    return most, sum(one.nbytes for one in made.parameters())


def test_takes_less_memory_than_the_dense_encoder() -> None:
    sizes = {"output_size": 32, "linear_units": 256, "num_blocks": 24}
    dense, _ = most_bytes(**sizes, experts=None, sharing=None)
    most, in_the_end = most_bytes(**sizes, experts=None, sharing=EVERYTHING)
    a_layer = dense / 24
    assert most < in_the_end + 1.5 * a_layer
    most, in_the_end = most_bytes(**sizes, sharing=EVERYTHING)
    assert most < dense
    assert most < 1.6 * in_the_end  # the experts of one layer more


def test_layers_of_other_threads_are_left_alone() -> None:
    plain: list[Any] = []
    started, finished = threading.Event(), threading.Event()

    def build() -> None:
        started.wait(timeout=60)
        plain.append(encoder(0, "conformer"))
        finished.set()

    other = threading.Thread(target=build)
    other.start()

    def let_other_build(module: Any, name: str, parameter: Any) -> None:
        if threading.current_thread() is not other:
            started.set()
            finished.wait(timeout=60)

    handle = register_module_parameter_registration_hook(let_other_build)
    try:
        ours(sharing=EVERYTHING)
    finally:
        handle.remove()
        other.join()
    layers = plain[0].encoders
    assert len({id(layer.self_attn.linear_q.weight) for layer in layers}) == len(layers)


def test_another_class_of_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoeShareConformerEncoder, "layer_class", torch.nn.Linear)
    with pytest.raises(TypeError, match="layer_class is Linear, but the layers are others"):
        ours()
