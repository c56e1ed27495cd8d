"""A model with ``gradient_checkpoint_layers`` could not be pickled.

A layer that was listed twice ended in a Python TypeError.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, SHARING, encoder, features


@pytest.mark.parametrize("change", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_is_checkpointed(change: Callable[[Any], Any]) -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING, gradient_checkpoint_layers=[1, 3])
    expected = model.eval()(*features())[0]
    other = change(model)
    runs: list[int] = []
    for number, layer in enumerate(other.encoders):
        layer.register_forward_pre_hook(lambda *args, number=number: runs.append(number))
    assert torch.equal(other(*features())[0], expected)
    other.train()(*features())[0].sum().backward()
    assert runs == [0, 1, 2, 3, 0, 1, 2, 3, 2, 0]
    assert other.state_dict().keys() == model.state_dict().keys()


def test_layer_listed_twice() -> None:
    model = encoder(gradient_checkpoint_layers=[1, 3, 1])
    runs: list[int] = []
    model.encoders[0].register_forward_pre_hook(lambda *args: runs.append(0))
    model(*features())[0].sum().backward()
    assert runs == [0, 0]
