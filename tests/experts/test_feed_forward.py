"""The expert layer against a loop written by hand, and its invariances."""

import pytest
import torch
from torch.nn import functional as F

from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.recording import record_routing
from espnet_moe_share.experts.routing import Routing

SIZE, HIDDEN, EXPERTS = 6, 10, 4


def make(top_k: int = 1, num_experts: int = EXPERTS, dropout: float = 0.0) -> MixtureOfExperts:
    torch.manual_seed(3)
    layer = MixtureOfExperts(
        SIZE, HIDDEN, torch.nn.Dropout(dropout), torch.nn.SiLU(), num_experts, top_k
    )
    # far from its initial state, in which all probabilities are nearly alike
    torch.nn.init.normal_(layer.router.weight)
    return layer


def by_hand(layer: MixtureOfExperts, frame: torch.Tensor, top_k: int) -> torch.Tensor:
    """Output for one frame (D,), expert by expert."""
    probabilities = (layer.router.weight @ frame).softmax(0)
    chosen = sorted(range(len(probabilities)), key=lambda e: -probabilities[e].item())[:top_k]
    total = sum(probabilities[e] for e in chosen) if top_k > 1 else 1.0
    outputs = []
    for e in chosen:
        hidden = F.silu(layer.experts.w_1[e] @ frame + layer.experts.b_1[e])
        output = layer.experts.w_2[e] @ hidden + layer.experts.b_2[e]
        outputs.append(probabilities[e] / total * output)
    return torch.stack(outputs).sum(0)


@pytest.mark.parametrize("top_k", [1, 2, 3, EXPERTS])
def test_equals_loop_over_frames(double_precision: None, top_k: int) -> None:
    layer = make(top_k)
    x = torch.randn(3, 7, SIZE)
    expected = torch.stack(
        [torch.stack([by_hand(layer, frame, top_k) for frame in utterance]) for utterance in x]
    )
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_equal_those_of_the_loop(double_precision: None, top_k: int) -> None:
    layer = make(top_k)
    x = torch.randn(2, 5, SIZE, requires_grad=True)
    direction = torch.randn(2, 5, SIZE)
    wanted = [x, *layer.parameters()]
    got = torch.autograd.grad((layer(x) * direction).sum(), wanted)
    loop = torch.stack([torch.stack([by_hand(layer, f, top_k) for f in u]) for u in x])
    expected = torch.autograd.grad((loop * direction).sum(), wanted)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradcheck_with_padding(double_precision: None, top_k: int) -> None:
    layer = make(top_k)
    mask = torch.arange(4) < torch.tensor([[4], [2]])

    def run(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        layer.frame_mask = mask
        return layer(x)

    x = torch.randn(2, 4, SIZE, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_idle_experts_have_a_zero_gradient(double_precision: None) -> None:
    layer = make()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[2, 0] = 5.0
    x = torch.randn(2, 6, SIZE).abs()  # first coordinate positive: expert 2 takes all
    with record_routing(layer) as records:
        y = layer(x)
    y.sum().backward()
    assert records[""][0].expert_ids_NK.unique().tolist() == [2]
    for parameter in layer.experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[[0, 1, 3]].abs().sum() == 0
        assert parameter.grad[2].abs().sum() > 0


def test_padding_and_batch_do_not_matter(double_precision: None) -> None:
    layer = make(top_k=2).eval()
    lengths = [7, 3, 5]
    x = torch.randn(3, 7, SIZE)
    outputs = {}
    recorded: dict[str, Routing] = {}
    for name, frames in (("tight", 7), ("loose", 11)):
        padded = torch.full((3, frames, SIZE), 1e3)
        padded[:, :7] = x
        layer.frame_mask = (torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)).unsqueeze(1)
        with record_routing(layer) as records:
            outputs[name] = layer(padded)
        recorded[name] = records[""][0]
    for row, length in enumerate(lengths):
        alone = layer(x[row : row + 1, :length])
        for output in outputs.values():
            torch.testing.assert_close(output[row, :length], alone[0])
            assert output[row, length:].abs().sum() == 0
    assert len(recorded["tight"].logits_NE) == sum(lengths)
    torch.testing.assert_close(recorded["tight"].logits_NE, recorded["loose"].logits_NE)


def test_padding_has_no_gradient(double_precision: None) -> None:
    layer = make()
    x = torch.randn(1, 5, SIZE, requires_grad=True)
    layer.frame_mask = torch.tensor([[True, True, True, False, False]])
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 3:].abs().sum() == 0
    assert (x.grad[0, :3].abs().sum(-1) > 0).all()


def test_permutation_of_frames_permutes_the_output(double_precision: None) -> None:
    layer = make(top_k=2).eval()
    x = torch.randn(1, 20, SIZE)
    order = torch.randperm(20)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_eval_is_deterministic() -> None:
    layer = make(dropout=0.5).eval()
    x = torch.randn(4, 30, SIZE)
    first = layer(x)
    torch.manual_seed(99)
    assert torch.equal(layer(x), first)


def test_dropout_acts_in_training_only() -> None:
    layer = make(dropout=0.5)
    x = torch.randn(4, 30, SIZE)
    assert not torch.equal(layer(x), layer(x))


def test_one_expert_is_a_dense_feed_forward() -> None:
    layer = make(num_experts=1)
    x = torch.randn(3, 7, SIZE)
    hidden = F.silu(F.linear(x, layer.experts.w_1[0], layer.experts.b_1[0]))
    dense = F.linear(hidden, layer.experts.w_2[0], layer.experts.b_2[0])
    torch.testing.assert_close(layer(x), dense)


def test_frame_mask_is_used_up() -> None:
    layer = make()
    x = torch.randn(1, 5, SIZE)
    layer.frame_mask = torch.zeros(1, 5, dtype=torch.bool).index_fill(1, torch.tensor([0]), True)
    masked = layer(x)
    assert layer.frame_mask is None
    assert masked[0, 1:].abs().sum() == 0
    assert (layer(x)[0, 1:].abs().sum(-1) > 0).all()


def test_autocast_keeps_float32_routing_and_lower_precision_experts() -> None:
    layer = make()
    x = torch.randn(2, 9, SIZE)
    with record_routing(layer) as plain:
        layer(x)
    with record_routing(layer) as records, torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert records[""][0].logits_NE.dtype == torch.float32
    assert torch.equal(records[""][0].logits_NE, plain[""][0].logits_NE)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_espnet_initialization_leaves_each_expert_in_the_range_of_linear() -> None:
    from espnet2.torch_utils.initialize import initialize

    for init in ("xavier_uniform", "normal", "kaiming_uniform"):
        layer = make()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(100.0)
        initialize(torch.nn.Sequential(layer), init)
        for weight, bias in (
            (layer.experts.w_1, layer.experts.b_1),
            (layer.experts.w_2, layer.experts.b_2),
        ):
            bound = weight.size(-1) ** -0.5
            for tensor in (weight, bias):
                assert 0.8 * bound < tensor.abs().max() <= bound
        assert 0 < layer.router.weight.abs().max() <= 2 * (0.1 / SIZE) ** 0.5
