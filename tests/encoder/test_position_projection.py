"""The products of relative positions that layers have in common."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, SHARING, encoder, features, randomize

from espnet_moe_share.encoder.position_projection import KeptProjections, PositionProjection

OURS = ["moe_share_conformer", "moe_share_e_branchformer"]


def shared(name: str = "moe_share_conformer", groups: int = 2, **changes: Any) -> Any:
    sharing = [{**SHARING[0], "groups": groups}]
    return randomize(encoder(name=name, sharing=sharing, experts=EXPERTS, **changes))


def linears(model: Any) -> list[Any]:
    return [
        module for path, module in model.encoders.named_modules() if path.endswith("linear_pos")
    ]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Parameter]:
    """Weights with which torch has multiplied, filled as linear layers run."""
    weights: list[torch.nn.Parameter] = []
    forward = torch.nn.Linear.forward

    def counted(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        weights.append(self.weight)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    return weights


def count(products: list[torch.nn.Parameter], model: Any) -> int:
    of_positions = [linear.weight for linear in linears(model)]
    return sum(any(one is weight for weight in of_positions) for one in products)


@contextmanager
def each_layer_on_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(KeptProjections, "get", lambda self, weight, x, project: project(x))
        yield


@pytest.mark.parametrize("rel_pos_type", ["latest", "legacy"])
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("groups", [1, 2])
def test_one_product_for_each_weight_and_the_same_output(
    double_precision: None,
    products: list[torch.nn.Parameter],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    groups: int,
    rel_pos_type: str,
) -> None:
    model = shared(name, groups, rel_pos_type=rel_pos_type).eval()
    y = model(*features())[0]
    assert count(products, model) == groups
    products.clear()
    with each_layer_on_its_own(monkeypatch):
        expected = model(*features())[0]
    assert count(products, model) == 4
    assert torch.equal(y, expected)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("checkpointed", [[], [2], [1, 2, 3, 4]])
def test_gradients(
    double_precision: None, monkeypatch: pytest.MonkeyPatch, name: str, checkpointed: list[int]
) -> None:
    """Also where some layers of a group run a second time, without the others."""
    model = shared(name, groups=1, gradient_checkpoint_layers=checkpointed)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        model(*features())[0].square().sum().backward()
        return {path: parameter.grad for path, parameter in model.named_parameters()}

    found = gradients()
    with each_layer_on_its_own(monkeypatch):
        expected = gradients()
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(found[path], gradient)


def test_nothing_is_kept_between_forward_passes(double_precision: None) -> None:
    model = shared().eval()
    before = model(*features())[0]
    with torch.no_grad():
        linears(model)[0].weight.mul_(2)
    after = model(*features())[0]
    assert not torch.allclose(before, after)
    fresh = shared().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after, fresh(*features())[0])


def test_nothing_is_kept_after_an_error() -> None:
    model = shared().eval()
    handle = model.encoders[3].register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(*features())
    handle.remove()
    assert model._kept_projections._products is None


def test_a_layer_on_its_own_projects_itself() -> None:
    """Outside of the encoder's forward pass: the same positions again, with another weight."""
    linear = linears(shared())[0]
    positions = torch.randn(1, 5, 8)
    before = linear(positions)
    with torch.no_grad():
        linear.weight.mul_(2)
    torch.testing.assert_close(linear(positions), 2 * before)


def test_only_for_the_very_same_weight_and_positions() -> None:
    kept = KeptProjections()
    one, other, x, y = torch.randn(4, 3).unbind()
    with kept.within_forward():
        product = kept.get(one, x, lambda x: x + 1)
        assert kept.get(one, x, lambda x: x + 2) is product
        assert torch.equal(kept.get(other, x, lambda x: x + 2), x + 2)
        assert torch.equal(kept.get(one, y, lambda x: x + 3), y + 3)  # as ctc_trim makes them


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": EXPERTS},  # nothing shared
        {"sharing": [{"modules": ["*"], "except": ["*linear_pos*"], "groups": 2}]},
        {"sharing": [{"modules": ["*"], "groups": 4}]},
        {
            "sharing": [{"modules": ["*"], "groups": 2}],
            "low_rank": [{"modules": ["self_attn.linear_pos"], "rank": 2}],
        },
    ],
)
def test_left_alone_where_there_is_nothing_to_keep(changes: dict[str, Any]) -> None:
    assert not any(isinstance(one, PositionProjection) for one in linears(encoder(**changes)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(products: list[torch.nn.Parameter], again: Any) -> None:
    model = shared().eval()
    copied = again(model)
    y = model(*features())[0]
    products.clear()
    assert torch.equal(copied(*features())[0], y)
    assert count(products, copied) == 2 and count(products, model) == 0
