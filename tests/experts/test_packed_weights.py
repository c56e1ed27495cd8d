"""Inference with packed weights: the same results, whatever happens to the weights between."""

import copy
import gc
import io

import pytest
import torch

from espnet_moe_share.experts import expert_rows, packed_weights
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.kernels import expert_kernel

# large enough for oneDNN
FRAMES, SIZE, HIDDEN, EXPERTS = 60, 128, 512, 2


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What packed weights are for on any processor: one expert after the other by oneDNN."""
    monkeypatch.setattr(expert_rows, "MOST_PRODUCTS", 0)
    monkeypatch.setattr(expert_rows, "LARGE_PRODUCTS", float("inf"))


@pytest.fixture(params=[torch.nn.SiLU, torch.nn.ReLU, torch.nn.Tanh])
def layer(request: pytest.FixtureRequest) -> MixtureOfExperts:
    torch.manual_seed(3)
    made = MixtureOfExperts(SIZE, HIDDEN, torch.nn.Dropout(0.5), request.param(), EXPERTS, 1).eval()
    torch.nn.init.normal_(made.router.weight)
    check(made)
    assert packed_weights._packed, "nothing was packed: these tests would show nothing"
    return made


def check(layer: MixtureOfExperts) -> None:
    x = torch.randn(1, FRAMES, SIZE)
    with torch.no_grad():
        with expert_kernel("loop"):
            expected = layer(x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_after_a_change(layer: MixtureOfExperts) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.randn(1, FRAMES, SIZE)).sum().backward()
    optimizer.step()
    check(layer)
    other = {key: value + 1 for key, value in layer.state_dict().items()}
    layer.load_state_dict(other)
    check(layer)
    layer.experts.w_1.data = torch.randn(EXPERTS, HIDDEN, SIZE)
    check(layer)
    layer.experts.w_2.data = 0.1 * torch.randn(EXPERTS, SIZE, HIDDEN)
    check(layer)
    layer.double().float()
    check(layer)


@pytest.mark.parametrize("name", ["w_1", "b_1", "w_2", "b_2"])
def test_after_a_change_of_one(layer: MixtureOfExperts, name: str) -> None:
    with torch.no_grad():
        getattr(layer.experts, name).mul_(-2)
    check(layer)


@pytest.mark.parametrize("name", ["w_1", "w_2"])
def test_a_change_that_torch_does_not_count_is_seen_after_training(
    layer: MixtureOfExperts, name: str
) -> None:
    getattr(layer.experts, name).data.mul_(2)
    layer.train()(torch.randn(1, FRAMES, SIZE))
    check(layer.eval())


def test_copies_and_files_have_their_own(layer: MixtureOfExperts) -> None:
    copied = copy.deepcopy(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copied, torch.load(file, weights_only=False)):
        with torch.no_grad():
            other.experts.w_1.mul_(-1)
            other.experts.w_2.mul_(-2)
        check(other)
    check(layer)


def another(layer: MixtureOfExperts, *shared: str) -> MixtureOfExperts:
    other = MixtureOfExperts(SIZE, HIDDEN, torch.nn.Dropout(0.5), torch.nn.SiLU(), EXPERTS, 1)
    for name in shared:
        setattr(other.experts, name, getattr(layer.experts, name))
    return other.eval()


def test_layers_that_share_their_experts_share_it(layer: MixtureOfExperts) -> None:
    before = len(packed_weights._packed)
    check(another(layer, "w_1", "b_1", "w_2", "b_2"))
    assert len(packed_weights._packed) == before


@pytest.mark.parametrize("shared", ["w_1", "w_2"])
def test_layers_that_share_a_weight_share_its_blocks(layer: MixtureOfExperts, shared: str) -> None:
    other = another(layer, shared)
    check(other)
    weights = [one.experts.get_parameter(name) for one in (layer, other) for name in ("w_1", "w_2")]
    blocks = [packed_weights._packed[weight].matrices for weight in weights]
    assert len({id(one) for one in blocks}) == 3
    for _ in range(2):
        check(layer)
        check(other)
    assert all(packed_weights._packed[w].matrices is one for w, one in zip(weights, blocks))


@pytest.mark.parametrize("name", ["b_1", "b_2"])
def test_biases_may_change_in_any_way(layer: MixtureOfExperts, name: str) -> None:
    weight = getattr(layer.experts, name)
    weight.data.mul_(-2)
    check(layer)


@pytest.mark.parametrize("name", ["w_1", "b_1", "w_2", "b_2"])
def test_others_in_their_place(layer: MixtureOfExperts, name: str) -> None:
    for _ in range(3):  # the next may come to lie where the last one was
        weight = getattr(layer.experts, name)
        setattr(layer.experts, name, torch.nn.Parameter(torch.randn_like(weight)))
        del weight
        gc.collect()
        check(layer)


def test_experts_without_rows_and_many_rows(layer: MixtureOfExperts) -> None:
    for frames in (1, 3, 600, 3000):
        x = torch.randn(1, frames, SIZE)
        with torch.no_grad():
            with expert_kernel("loop"):
                expected = layer(x)
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        layer.router.weight.zero_()  # the first expert gets every row
    check(layer)


def test_goes_with_the_weights(layer: MixtureOfExperts) -> None:
    alone = copy.deepcopy(layer)
    check(alone)
    before, experts_before = len(packed_weights._packed), len(packed_weights._experts)
    del alone
    gc.collect()
    assert len(packed_weights._packed) == before - 2
    assert len(packed_weights._experts) == experts_before - 1


def test_weights_without_a_count_of_changes() -> None:
    with torch.inference_mode():
        layer = MixtureOfExperts(SIZE, HIDDEN, torch.nn.Dropout(0.5), torch.nn.SiLU(), EXPERTS, 1)
    experts = layer.experts
    assert packed_weights.pack(experts.w_1, experts.b_1, experts.w_2, experts.b_2) is None
    check(layer.eval())
