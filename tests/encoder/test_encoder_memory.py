"""What our encoders do not hold in memory, and that nobody misses it."""

import copy
import pickle
from typing import Any

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from espnet2.main_funcs.calculate_all_attentions import calculate_all_attentions
from tiny_models import (
    ENCODERS,
    EXPERTS,
    batch,
    build,
    encoder,
    encoder_config,
    features,
    randomize,
)

LENGTHS = (60, 47, 33)


def twins(name: str, **changes: Any) -> tuple[Any, Any]:
    """Ours and ESPnet's, with the same weights in the input layer."""
    settings = {"input_layer": "conv2d", **changes}
    ours = randomize(encoder(name=f"moe_share_{name}", experts=EXPERTS, **settings))
    theirs = encoder(name=name, **settings)
    theirs.embed.load_state_dict(ours.embed.state_dict())
    return ours.eval(), theirs.eval()


def embedded(model: Any) -> torch.Tensor:
    x, lengths = features(lengths=LENGTHS)
    mask = (torch.arange(x.size(1)) < lengths.unsqueeze(1)).unsqueeze(1)
    y = model.embed(x, mask)[0]
    output: torch.Tensor = y[0] if isinstance(y, tuple) else y
    return output


def order_of_convolutions(model: Any) -> list[bool]:
    """Whether each convolution gives its output with the channels side by side."""
    orders: list[bool] = []

    def look(module: Any, args: Any, y: torch.Tensor) -> None:
        orders.append(y.is_contiguous(memory_format=torch.channels_last))

    handles = [
        module.register_forward_hook(look)
        for module in model.embed.conv
        if isinstance(module, torch.nn.Conv2d)
    ]
    embedded(model)
    for handle in handles:
        handle.remove()
    return orders


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"])
def test_the_same_output_in_another_order(double_precision: None, input_layer: str) -> None:
    ours, theirs = twins("conformer", input_layer=input_layer)
    with torch.no_grad():
        torch.testing.assert_close(embedded(ours), embedded(theirs))
        assert all(order_of_convolutions(ours))
        assert not any(order_of_convolutions(theirs))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_training_is_espnets_bit_for_bit(double_precision: None, name: str) -> None:
    outputs, gradients = [], []
    for model in twins(name):
        torch.manual_seed(2)
        y = embedded(model.train())
        y.square().sum().backward()
        outputs.append(y)
        gradients.append([parameter.grad for parameter in model.embed.parameters()])
    assert torch.equal(*outputs)
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(again: Any) -> None:
    model, _ = twins("conformer")
    with torch.no_grad():
        assert torch.equal(embedded(again(model)), embedded(model))
        assert all(order_of_convolutions(again(model)))


def kept_attention(model: Any) -> list[bool]:
    """Whether each attention of the encoder has its last weights, after a forward pass."""
    model(*features(lengths=LENGTHS))
    attentions = [one for one in model.encoders.modules() if isinstance(one, MultiHeadedAttention)]
    assert len(attentions) == 4
    return [one.attn is not None for one in attentions]


@pytest.mark.parametrize("name", list(ENCODERS))
def test_attention_is_forgotten(name: str) -> None:
    ours, theirs = twins(name)
    assert not any(kept_attention(ours))
    assert not any(kept_attention(ours.train()))
    assert all(kept_attention(theirs))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_attention_is_plotted(name: str) -> None:
    """By ESPnet's function for it, of every layer of encoder and decoder."""
    model = build(encoder_config(f"moe_share_{name}")).eval()
    found = calculate_all_attentions(model, batch())
    attention = "attn" if name == "e_branchformer" else "self_attn"
    for layer in range(4):
        for weights in found[f"encoder.encoders.{layer}.{attention}"]:
            assert weights.dim() == 3
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:2]))


def positions_of(model: Any) -> RelPositionalEncoding:
    (found,) = [one for one in model.embed.modules() if isinstance(one, RelPositionalEncoding)]
    return found


@pytest.mark.parametrize("frames", [1, 999, 1000, 1001, 1700])
def test_table_of_positions_grows(frames: int) -> None:
    """Utterances that the table has room for and longer ones, and shorter ones after them."""
    ours, theirs = (positions_of(model) for model in twins("conformer"))
    assert ours.pe.size(1) == 1999 and theirs.pe.size(1) == 9999
    for length in (frames, 20, frames):
        x = torch.randn(2, length, ours.d_model)
        torch.testing.assert_close(ours(x), theirs(x))


def activations(model: Any) -> list[type]:
    return [
        type(module)
        for path, module in model.encoders.named_modules()
        if path.endswith(".activation")
    ]


def test_swish_is_silu() -> None:
    ours, theirs = twins("conformer")
    assert set(activations(theirs)) == {Swish}
    assert set(activations(ours)) == {torch.nn.SiLU}
    relu, _ = twins("conformer", activation_type="relu")
    assert set(activations(relu)) == {torch.nn.ReLU}


def test_without_knobs_it_is_espnets() -> None:
    plain = encoder(input_layer="conv2d").eval()
    with torch.no_grad():
        assert not any(order_of_convolutions(plain))
    assert all(kept_attention(plain))
    assert set(activations(plain)) == {Swish}
    assert positions_of(plain).pe.size(1) == 9999
