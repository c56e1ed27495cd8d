"""Every kernel gives what the loop gives, forward and backward."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.frames import find_frames
from espnet_moe_share.experts.kernels import KERNELS, choose_kernel, expert_kernel

SIZE, HIDDEN = 16, 24  # rows of a multiple of 16 bytes, as grouped_mm wants them
OTHERS = [name for name in KERNELS if name != "loop"]


def make(top_k: int = 1, num_experts: int = 4, **options: float) -> MixtureOfExperts:
    torch.manual_seed(5)
    layer = MixtureOfExperts(
        SIZE, HIDDEN, torch.nn.Dropout(0.0), torch.nn.SiLU(), num_experts, top_k, **options
    )
    torch.nn.init.normal_(layer.router.weight)
    return layer


def run(
    kernel: str, layer: MixtureOfExperts, x: torch.Tensor, mask: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Output, and gradients of its plain sum: an expanded tensor, which some products refuse."""
    layer.frame_mask = mask
    with expert_kernel(kernel):
        y = layer(x)
    return [y, *torch.autograd.grad(y.sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("padding", [False, True])
def test_equals_the_loop(kernel: str, top_k: int, padding: bool) -> None:
    layer = make(top_k)
    x = torch.randn(3, 7, SIZE, requires_grad=True)
    mask = (torch.arange(7) < torch.tensor([[7], [3], [5]])).unsqueeze(1) if padding else None
    for got, expected in zip(run(kernel, layer, x, mask), run("loop", layer, x, mask)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize("loads", [[0, 0, 6, 0], [3, 0, 0, 4], [0, 5, 1, 1]])
def test_idle_experts_and_one_that_takes_all(kernel: str, loads: list[int]) -> None:
    layer = make()
    layer.router.weight.data.zero_()[:, :4] = torch.eye(4)
    x = torch.cat([torch.eye(SIZE)[e].expand(load, SIZE) for e, load in enumerate(loads)])
    x = (x * torch.linspace(1, 2, len(x)).unsqueeze(1)).unsqueeze(0).requires_grad_()
    for got, expected in zip(run(kernel, layer, x), run("loop", layer, x)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    gradients = run(kernel, layer, x)[3:]
    for gradient in gradients:
        assert (gradient.flatten(1).abs().sum(1) == 0).tolist() == [load == 0 for load in loads]


@pytest.mark.parametrize("kernel", OTHERS)
def test_bfloat16_in_autocast(kernel: str) -> None:
    layer = make(top_k=2)
    x = torch.randn(2, 9, SIZE, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = run(kernel, layer, x)
    assert results[0].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in results[1:])
    for got, expected in zip(results, run("loop", layer, x)):
        error = (got.float() - expected).norm() / expected.norm()
        assert error < 0.02


@pytest.mark.parametrize("kernel", KERNELS)
def test_autocast_to_another_dtype_than_the_inputs(kernel: str) -> None:
    layer = make().bfloat16()
    x = torch.randn(2, 9, SIZE, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.float16), expert_kernel(kernel):
        assert layer(x).dtype == torch.float16


@pytest.mark.parametrize("kernel", OTHERS)
def test_inference_equals_training(kernel: str) -> None:
    layer = make().eval()
    x = torch.randn(2, 40, SIZE)
    with expert_kernel(kernel):
        expected = layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            layer.frame_mask = torch.ones(2, 1, 40, dtype=torch.bool)
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", OTHERS)
def test_non_contiguous_input(kernel: str) -> None:
    layer = make()
    x = torch.randn(SIZE, 7, 3)
    got = run(kernel, layer, x.permute(2, 1, 0).requires_grad_())
    expected = run("loop", layer, x.permute(2, 1, 0).contiguous().requires_grad_())
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_frames_at_all(kernel: str) -> None:
    layer = make()
    x = torch.randn(1, 3, SIZE, requires_grad=True)
    y, *gradients = run(kernel, layer, x, torch.zeros(1, 3, dtype=torch.bool))
    assert not y.any()
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kernel", OTHERS)
def test_dropped_choices(kernel: str) -> None:
    layer = make(top_k=2, capacity_factor=0.5)
    x = torch.randn(2, 9, SIZE, requires_grad=True)
    mask = (torch.arange(9) < torch.tensor([[9], [4]])).unsqueeze(1)
    for got, expected in zip(run(kernel, layer, x, mask), run("loop", layer, x, mask)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_frozen_experts_and_an_input_without_gradient(double_precision: None) -> None:
    layer = make()
    x = torch.randn(2, 9, SIZE)
    for parameter in layer.experts.parameters():
        parameter.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.router.weight.grad is not None and layer.router.weight.grad.any()
    layer.experts.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.experts.w_1.grad is not None and layer.experts.w_1.grad.any()


def test_the_mask_of_one_forward_is_looked_up_once() -> None:
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    frames = find_frames(mask)
    assert frames is not None
    assert frames.rows_N.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert frames.padding.tolist() == [7, 8, 9]
    assert find_frames(mask) is frames
    assert find_frames(torch.ones(2, 1, 3, dtype=torch.bool)) is None


def test_unknown_kernel_is_refused_and_the_choice_ends_with_its_context() -> None:
    with pytest.raises(ConfigurationError, match="'fast': there are auto, loop"):
        expert_kernel("fast").__enter__()
    layer = make()
    with pytest.raises(RuntimeError, match="stop"), expert_kernel("dense"):
        assert choose_kernel(torch.zeros(1, SIZE), layer.experts) == "dense"
        raise RuntimeError("stop")
    assert choose_kernel(torch.zeros(1, SIZE), layer.experts) == "segment_mm"


@pytest.mark.parametrize("top_k", [1, 2])
def test_export_has_no_shape_that_depends_on_data(top_k: int) -> None:
    layer = make(top_k).eval()
    frames = torch.export.Dim("frames", min=2, max=1000)
    program = torch.export.export(
        layer, (torch.randn(1, 9, SIZE),), dynamic_shapes={"x_BTD": {1: frames}}
    )
    x = torch.randn(1, 23, SIZE)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)
    traced = torch.jit.trace(layer, torch.randn(1, 9, SIZE), check_trace=False)
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
def test_grouped_mm_never_waits_for_the_device(top_k: int) -> None:
    """Tensors without values cannot be looked into: a number or a shape made of them raises."""
    layer = make(top_k).bfloat16()
    with FakeTensorMode(allow_non_fake_inputs=True), expert_kernel("grouped_mm"):
        x = torch.empty(2, 9, SIZE, dtype=torch.bfloat16)
        assert layer(x).shape == x.shape
    with FakeTensorMode(allow_non_fake_inputs=True), expert_kernel("segment_mm"):
        x = torch.empty(2, 9, SIZE, dtype=torch.bfloat16)
        with pytest.raises(DataDependentOutputException):
            layer(x)


def test_compiled() -> None:
    layer = make()
    x = torch.randn(2, 9, SIZE, requires_grad=True)
    expected = run("auto", layer, x)
    compiled = torch.compile(layer, backend="aot_eager")
    y = compiled(x)
    for got, want in zip([y, *torch.autograd.grad(y.sum(), [x, *layer.parameters()])], expected):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_products_that_are_large_enough_for_onednn() -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(256, 512, torch.nn.Dropout(0.0), torch.nn.SiLU(), 2, 1)
    x = torch.randn(1, 100, 256, requires_grad=True)
    expected = run("loop", layer, x)
    for got, wanted in zip(run("segment_mm", layer, x), expected):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected[0], rtol=1e-4, atol=1e-4)
