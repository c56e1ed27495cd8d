"""Choices and gates of the router."""

import torch

from espnet_moe_share.experts.router import TopKRouter


def make(top_k: int, weight: list[list[float]]) -> TopKRouter:
    router = TopKRouter(len(weight[0]), len(weight), top_k)
    router.weight.data = torch.tensor(weight)
    return router


def test_top_1_gate_is_the_raw_probability() -> None:
    router = make(1, [[1.0], [2.0], [0.0]])
    logits, *_, ids, gates = router(torch.tensor([[1.0], [-1.0]]))
    assert logits.tolist() == [[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]]
    assert ids.tolist() == [[1], [2]]
    probability = torch.tensor(2.0).exp() / torch.tensor([1.0, 2.0, 0.0]).exp().sum()
    torch.testing.assert_close(gates[0, 0], probability)


def test_top_2_gates_sum_to_1_in_the_ratio_of_the_probabilities() -> None:
    router = make(2, [[1.0], [2.0], [0.0]])
    *_, ids, gates = router(torch.tensor([[1.0]]))
    assert ids.tolist() == [[1, 0]]
    torch.testing.assert_close(gates.sum(-1), torch.ones(1))
    torch.testing.assert_close(gates[0, 0] / gates[0, 1], torch.tensor(1.0).exp())


def test_router_learns_from_the_task_at_top_1() -> None:
    router = make(1, [[1.0, 0.2], [0.5, -1.0]])
    router(torch.randn(9, 2))[3].sum().backward()
    assert router.weight.grad is not None
    assert (router.weight.grad.abs().sum(-1) > 0).all()


def test_bias_changes_the_choice_and_not_the_gate() -> None:
    router = make(1, [[1.0], [2.0], [0.0]])
    x = torch.tensor([[1.0], [-1.0]])
    logits, _, ids, gates = router(x)
    p = logits.softmax(-1)  # 0.24 0.67 0.09 and 0.24 0.09 0.67
    assert ids.tolist() == [[1], [2]]
    biased_logits, _, biased_ids, biased_gates = router(x, torch.tensor([0.45, 0.0, 0.0]))
    assert torch.equal(biased_logits, logits)
    assert biased_ids.tolist() == [[0], [0]]
    assert torch.equal(biased_gates, p[:, :1])
    # too small to matter for the choice: then it matters for nothing
    *_, same_ids, same_gates = router(x, torch.tensor([0.4, 0.0, 0.0]))
    assert torch.equal(same_ids, ids)
    assert torch.equal(same_gates, gates)


def test_bias_at_top_2_leaves_the_gates_in_the_ratio_of_the_probabilities() -> None:
    router = make(2, [[1.0], [2.0], [0.0]])
    *_, ids, gates = router(torch.tensor([[1.0]]), torch.tensor([-1.0, 0.0, 5.0]))
    assert ids.tolist() == [[2, 1]]
    torch.testing.assert_close(gates[0, 1] / gates[0, 0], torch.tensor(2.0).exp())
    torch.testing.assert_close(gates.sum(), torch.tensor(1.0))


def test_jitter_scales_every_input_in_training_only() -> None:
    torch.manual_seed(0)
    router = TopKRouter(4, 4, 1, jitter=0.25)
    router.weight.data = torch.eye(4)  # logits are what the router sees
    x = torch.full((5000, 4), 2.0)
    seen = router(x)[0] / 2.0
    assert 0.75 <= seen.min() < 0.76
    assert 1.24 < seen.max() <= 1.25
    assert abs(seen.mean() - 1) < 0.01
    assert abs(seen.std() - 0.25 / 3**0.5) < 0.01
    assert not torch.equal(seen[:, 0], seen[:, 1])
    assert not torch.equal(router(x)[0] / 2.0, seen)
    state = torch.get_rng_state()
    assert torch.equal(router.eval()(x)[0], x)
    router.train().jitter = 0.0
    assert torch.equal(router(x)[0], x)
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_input_is_routed_in_float32() -> None:
    torch.manual_seed(0)
    router = TopKRouter(16, 4, 1)
    x = torch.randn(50, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _, ids, gates = router(x)
    assert logits.dtype == gates.dtype == torch.float32
    assert torch.equal(logits, x.float() @ router.weight.T)
    double = router.double()(x.double())
    assert double[0].dtype == torch.float64
    assert torch.equal(double[2], ids)


def test_initial_weights_are_small() -> None:
    torch.manual_seed(0)
    weight = TopKRouter(256, 64, 1).weight
    std = (0.1 / 256) ** 0.5
    assert weight.abs().max() <= 2 * std
    # a normal distribution cut at two deviations has 0.88 of the deviation
    assert 0.85 * std < weight.std() < 0.91 * std
