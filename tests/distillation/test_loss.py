"""Distance between encoder outputs by hand."""

import pytest
import torch

from espnet_moe_share.distillation.loss import embedding_distance


def test_mean_over_valid_frames_and_dimensions() -> None:
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [0.0, 0.0]]])
    # frames: (0, 4), (9, 0), (1, 1); the last is padding
    distance = embedding_distance(student, teacher, torch.tensor([2, 1]))
    assert distance.item() == pytest.approx((4 + 9 + 1 + 1) / 6)


def test_padding_does_not_matter_and_has_no_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 4, 3)
    lengths = torch.tensor([4, 2])
    distance = embedding_distance(student, teacher, lengths)
    distance.backward()
    changed = teacher.clone()
    changed[1, 2:] = 1e4
    assert torch.equal(embedding_distance(student, changed, lengths), distance)
    assert student.grad is not None
    assert student.grad[1, 2:].abs().sum() == 0
    torch.testing.assert_close(student.grad[0], 2 * (student - teacher)[0].detach() / 18)


def test_half_precision_is_compared_in_float32() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 50, 16), torch.randn(2, 50, 16)
    lengths = torch.tensor([50, 50])
    low = embedding_distance(student.bfloat16(), teacher.bfloat16(), lengths)
    assert low.dtype == torch.float32
    exact = embedding_distance(student.bfloat16().double(), teacher.bfloat16().double(), lengths)
    assert exact.dtype == torch.float64
    assert low.item() == pytest.approx(exact.item(), rel=1e-5)


def test_parts_of_a_batch_add_up_with_the_frames_of_the_whole() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 4, 5)
    lengths = torch.tensor([4, 2, 0])
    whole = embedding_distance(student, teacher, lengths)
    parts = [
        embedding_distance(student[rows], teacher[rows], lengths[rows], lengths.sum())
        for rows in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    assert parts[2].item() == 0.0
    torch.testing.assert_close(sum(parts), whole)
