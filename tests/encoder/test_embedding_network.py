"""The network whose output every router sees, in each of our encoders."""

from typing import Any

import pytest
import torch
from tiny_models import EMBEDDING_NETWORK, ENCODERS, EXPERTS, MELS, encoder, features, randomize

from espnet_moe_share.encoder.embedding_network import record_embedding
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.losses import importance_loss
from espnet_moe_share.experts.recording import record_routing

WIDTH = EMBEDDING_NETWORK["output_size"]


@pytest.fixture(params=list(ENCODERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make(name: str = "conformer", network: Any = None, **changes: Any) -> Any:
    settings = {"experts": EXPERTS, "embedding_network": {**EMBEDDING_NETWORK, **(network or {})}}
    return randomize(encoder(name=f"moe_share_{name}", **{**settings, **changes}))


def router_gradients(model: Any, **changes: Any) -> dict[str, torch.Tensor | None]:
    """Gradients of a loss that only the routers' probabilities enter."""
    x, lengths = features(**changes)
    with record_routing(model) as records:
        model(x, lengths)
    importance_loss([call for calls in records.values() for call in calls]).backward()
    return {path: parameter.grad for path, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"input_layer": layer}) for name in ENCODERS for layer in ("linear", "conv2d6")),
        ("transformer", {"input_layer": None, "output_size": MELS}),
        ("conformer", {"rel_pos_type": "legacy"}),
        ("conformer", {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}),
    ],
)
def test_routers_of_all_layers_see_the_embedding_before_their_own_input(
    double_precision: None, name: str, settings: dict[str, Any]
) -> None:
    model = make(name, **settings).eval()
    inputs: dict[int, list[torch.Tensor]] = {}

    def keep(number: int) -> Any:
        return lambda module, args: inputs.setdefault(number, []).append(args[0])

    for number, layer in enumerate(model.encoders):
        layer.feed_forward.register_forward_pre_hook(keep(number))
        layer.feed_forward.router.register_forward_pre_hook(keep(number))
        assert layer.feed_forward.router.weight.shape == (4, WIDTH + model.output_size())
        assert layer.feed_forward.experts.w_1.size(-1) == model.output_size()
    subsampled = []
    model.embed.register_forward_hook(lambda module, args, output: subsampled.append(output))
    x, lengths = features(lengths=(60, 41))
    with record_embedding(model.embedding_network) as calls:
        _, frames, _ = model(x, lengths)
    ((embedding, embedding_lengths),) = calls
    assert torch.equal(embedding_lengths, frames)
    assert embedding.std() > 0.1
    mask = torch.arange(embedding.size(1)) < frames.unsqueeze(1)
    for layer_input, seen in inputs.values():
        assert torch.equal(seen[:, :WIDTH], embedding[mask])
        assert torch.equal(seen[:, WIDTH:], layer_input[mask])
    assert len(inputs) == 4
    # and it is the network's output for what the input layer made of the features
    (output,) = subsampled
    while isinstance(output, tuple):
        output = output[0]
    expected = model.embedding_network(output, frames)[0]
    torch.testing.assert_close(embedding[mask], expected[mask])


@pytest.mark.parametrize("settings", [{}, {"input_layer": "conv2d6"}])
def test_padding_and_batch_do_not_matter(
    double_precision: None, name: str, settings: dict[str, Any]
) -> None:
    model = make(name, **settings).eval()
    x, lengths = features(lengths=(60, 41, 33))
    x[1, 41:], x[2, 33:] = 50.0, -50.0
    with record_routing(model) as records:
        together, frames, _ = model(x, lengths)
    by_utterance = [calls[0].logits_NE.split(frames.tolist()) for calls in records.values()]
    for row, length in enumerate(lengths):
        with record_routing(model) as records:
            alone = model(x[row : row + 1, :length], lengths[row : row + 1])[0]
        torch.testing.assert_close(together[row, : frames[row]], alone[0])
        for layer, calls in zip(by_utterance, records.values(), strict=True):
            torch.testing.assert_close(layer[row], calls[0].logits_NE)


def test_padding_given_as_a_mask(double_precision: None, name: str) -> None:
    """It may be longer than the longest utterance."""
    model = make(name).eval()
    x, lengths = features(lengths=(18, 15, 9))
    expected = model(x, lengths)[0]
    longer = torch.cat([x, torch.full((3, 2, MELS), 9.0)], dim=1)
    output = model(longer, lengths, masks=torch.arange(20) >= lengths.unsqueeze(1))[0]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(output[row, :length], expected[row, :length])


@pytest.mark.parametrize("detach", [True, False])
def test_detach_decides_whether_routing_trains_the_network(detach: bool) -> None:
    gradients = router_gradients(make(network={"detach": detach}))
    network = {p: g for p, g in gradients.items() if p.startswith("embedding_network.")}
    assert len(network) > 50
    if detach:
        assert all(gradient is None for gradient in network.values())
    else:
        assert all(gradient is not None for gradient in network.values())
        assert network["embedding_network.embed.0.weight"].abs().sum() > 0
    weight = gradients["encoders.2.feed_forward.router.weight"]
    assert weight is not None
    assert (weight[:, :WIDTH].abs().sum(-1) > 0).all()


def test_gradient_checkpointing_changes_nothing(double_precision: None) -> None:
    """A layer that runs again in the backward pass must see the embedding again."""
    results = []
    for layers in ([], [1, 2, 4]):
        model = make("e_branchformer", {"detach": False}, gradient_checkpoint_layers=layers)
        torch.manual_seed(3)
        results.append(router_gradients(model))
    for path, gradient in results[0].items():
        torch.testing.assert_close(results[1][path], gradient)


def test_two_batches_before_their_backward_passes(double_precision: None) -> None:
    """A layer that runs again gets the embedding of its own batch, not of the latest."""
    model = make("e_branchformer", {"detach": False}, gradient_checkpoint_layers=[1, 2]).eval()
    batches = [features(seed=1), features(seed=2, lengths=(20, 13, 9))]
    apart = []
    for x, lengths in batches:
        model.zero_grad()
        model(x, lengths)[0].square().sum().backward()
        apart.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    for output in [model(x, lengths)[0] for x, lengths in batches]:
        output.square().sum().backward()
    for parameter, one, other in zip(model.parameters(), *apart, strict=True):
        torch.testing.assert_close(parameter.grad, one + other)


def test_nothing_is_left_behind(name: str) -> None:
    model = make(name).eval()
    x, lengths = features()
    first = model(x, lengths)[0]
    with pytest.raises(RuntimeError):  # an error on the way
        model(x[:, :, 1:], lengths)
    assert not model.embed._forward_hooks
    assert [len(layer._forward_pre_hooks) for layer in model.encoders] == [1] * 4
    assert all(layer.feed_forward.embedding is None for layer in model.encoders)
    assert torch.equal(model(x, lengths)[0], first)


@pytest.mark.parametrize("rate", [0.999, 0.5])
def test_layers_that_are_skipped(rate: float) -> None:
    model = make("e_branchformer", layer_drop_rate=rate)
    x, lengths = features()
    for _ in range(4):
        model(x, lengths)[0].sum().backward()


def test_rules_share_routers_with_the_embeddings_part_and_never_the_network(name: str) -> None:
    sharing = [{"modules": ["*.router"], "groups": 1}]
    model = make(name, sharing=sharing).eval()
    routers = {id(layer.feed_forward.router.weight) for layer in model.encoders}
    assert len(routers) == 1
    state = model.state_dict()
    assert state["encoders.0-3.feed_forward.router.weight"].shape == (4, WIDTH + 8)
    assert "embedding_network.encoders.1.feed_forward.w_1.weight" in state
    other = make(name, sharing=sharing, seed=5).eval()
    other.load_state_dict(state)
    x, lengths = features()
    assert torch.equal(other(x, lengths)[0], model(x, lengths)[0])


def test_parameters_by_formula(name: str) -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    plain, model = encoder(name=f"moe_share_{name}", experts=EXPERTS), make(name)
    # the routers' part for the embedding: 4 layers of E x De
    assert count(model.encoders) == count(plain.encoders) + 4 * 4 * WIDTH
    assert count(model) == count(plain) + 4 * 4 * WIDTH + count(model.embedding_network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (3, "embedding_network must be a mapping of detach and arguments of.*, not 3"),
        ({"blocks": 2}, "embedding_network: unknown key 'blocks'; the keys are detach, output_"),
        ({"input_layer": "conv2d"}, "'input_layer' cannot be chosen; the network reads"),
        ({"interctc_layer_idx": [1]}, "'interctc_layer_idx' cannot be chosen"),
        ({"detach": "yes"}, "'detach' must be true or false, not 'yes'"),
        ({"output_size": "32"}, r"ConformerEncoder cannot be built from \{'output_size': '32'"),
        ({"attention_heads": 3}, "cannot be built from.*: an assertion"),
        ({"rel_pos_type": "new"}, "cannot be built from.*: unknown rel_pos_type: new"),
    ],
)
def test_refused_networks(network: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        encoder(experts=EXPERTS, embedding_network=network)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("conformer", {"experts": None}, "for routers, and there are none: set experts"),
        ("conformer", {"ctc_trim": True}, "ctc_trim removes frames between the layers"),
        ("e_branchformer", {"gradient_checkpoint_layers": [0, 1]}, "leave 0 out"),
    ],
)
def test_options_that_exclude_one_another(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        make(name, **settings)
    assert "\n" not in str(refused.value)
