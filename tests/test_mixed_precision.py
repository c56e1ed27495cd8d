"""Training under autocast on the CPU, as ESPnet's ``use_amp`` does on a GPU.

bfloat16 is what ESPnet takes where the GPU has it, float16 elsewhere.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny_models import batch, build, config, merge, randomize

from espnet_moe_share import model as model_module
from espnet_moe_share.experts.routing import Routing

LOWER = [torch.bfloat16, torch.float16]
STEPS = 25


@pytest.fixture(scope="module")
def settings(teacher: dict[str, str]) -> dict[str, Any]:
    """A student with every loss and without dropout, so that runs can be compared."""
    dropouts = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    weights = {"balance_weight": 0.5, "router_z_weight": 0.1, "distill_weight": 0.5}
    return config(encoder_conf=dropouts, decoder_conf=dropouts, model_conf={**weights, **teacher})


def autocast(dtype: torch.dtype | None) -> Any:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


def step(settings: dict[str, Any], dtype: torch.dtype | None) -> tuple[Any, torch.Tensor, Any]:
    """Forward under autocast and backward outside, as ESPnet's trainer."""
    model = randomize(build(settings)).train()
    with autocast(dtype):
        loss, stats, _ = model(**batch())
    loss.backward()
    return model, loss, stats


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the model's losses are computed from, filled as it runs."""
    seen: dict[str, Any] = {}
    for name in ("routing_by_layer", "embedding_distance"):
        function = getattr(model_module, name)

        def spy(*args: Any, name: str = name, function: Any = function) -> Any:
            result = function(*args)
            seen[name] = (args, result)
            return result

        monkeypatch.setattr(model_module, name, spy)
    return seen


@pytest.mark.parametrize("dtype", LOWER)
def test_one_step_is_close_to_float32(
    settings: dict[str, Any], seen: dict[str, Any], dtype: torch.dtype
) -> None:
    exact, _, exact_stats = step(settings, None)
    exact_routings = dict(seen["routing_by_layer"][1])
    model, loss, stats = step(settings, dtype)

    routings: dict[str, Routing] = seen["routing_by_layer"][1]
    assert len(routings) == 4
    for path, routing in routings.items():
        assert routing.logits_NE.dtype == torch.float32
        same = routing.expert_ids_NK == exact_routings[path].expert_ids_NK
        assert same.float().mean() > 0.9, path
    (student_out, teacher_out, *_), distance = seen["embedding_distance"]
    assert student_out.dtype == teacher_out.dtype == dtype  # autocast was at work
    assert distance.dtype == torch.float32

    assert loss.dtype == torch.float32
    for term in ("balance", "router_z", "distill"):
        for name in (f"loss_{term}", f"loss_{term}_weighted"):
            assert stats[name].dtype == torch.float32
            torch.testing.assert_close(stats[name], exact_stats[name], rtol=0.01, atol=0)
    torch.testing.assert_close(stats["loss"], exact_stats["loss"], rtol=0.01, atol=0)

    for (name, parameter), expected in zip(model.named_parameters(), exact.parameters()):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
        # the others are 0 but for rounding: biases that softmax or batch norm take out again
        if expected.grad.norm() > 1e-4:
            cosine = torch.cosine_similarity(parameter.grad.flatten(), expected.grad.flatten(), 0)
            assert cosine > 0.97, name


@pytest.mark.parametrize("top_k", [1, 2])
def test_router_losses_alone_have_float32_gradients(
    settings: dict[str, Any], seen: dict[str, Any], top_k: int
) -> None:
    """From the same logits, to the last bit the same."""
    settings = merge(settings, {"encoder_conf": {"experts": {"top_k": top_k}}})
    step(settings, torch.bfloat16)
    routings = list(seen["routing_by_layer"][1].values())
    for loss in (model_module.pool_balance_loss, model_module.router_z_loss):
        logits = [routing.logits_NE.detach().clone().requires_grad_() for routing in routings]
        results = []
        for dtype in (torch.bfloat16, None):
            with autocast(dtype):
                loss_value = loss(
                    [
                        Routing(z, z.softmax(-1), r.expert_ids_NK, r.experts)
                        for z, r in zip(logits, routings)
                    ]
                )
            results.append([loss_value, *torch.autograd.grad(loss_value, logits)])
        for lower, exact in zip(*results):
            assert lower.dtype == torch.float32
            assert torch.equal(lower, exact)


def train(settings: dict[str, Any], dtype: torch.dtype | None) -> tuple[list[float], int]:
    """Losses of a short training with ESPnet's scaler, and the number of updates it left out."""
    model = build(settings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is not None)
    losses, left_out = [], 0
    for number in range(STEPS):
        optimizer.zero_grad()
        with autocast(dtype):
            loss, _, _ = model(**batch(number % 2))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        left_out += not norm.isfinite()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses, left_out


@pytest.fixture(scope="module")
def float32_losses(settings: dict[str, Any]) -> list[float]:
    return train(settings, None)[0]


@pytest.mark.parametrize("dtype", LOWER)
def test_loss_falls_as_in_float32(
    settings: dict[str, Any], float32_losses: list[float], dtype: torch.dtype
) -> None:
    assert float32_losses[-1] < 0.7 * float32_losses[0]
    losses, left_out = train(settings, dtype)
    assert losses[-1] == pytest.approx(float32_losses[-1], rel=0.1)
    # float16: the scaler starts too high on purpose and finds its scale
    assert left_out <= (5 if dtype == torch.float16 else 0)
