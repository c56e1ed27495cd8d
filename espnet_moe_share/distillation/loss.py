"""Distance between the hidden embeddings of student and teacher."""

import torch


def embedding_distance(
    student_BTD: torch.Tensor,
    teacher_BTD: torch.Tensor,
    lengths: torch.Tensor,
    num_frames: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared difference of two encoder outputs over the frames that are not padding.

    The L2 distance of Bai et al. 2022 ("Distilling Knowledge from Hidden Embedding"); that it is
    a mean over frames and dimensions rather than a sum is our choice, which keeps its weight
    independent of batch and width.

    Args:
        student_BTD: Output of the student's encoder (B, T, D).
        teacher_BTD: Output of the teacher's encoder (B, T, D).
        lengths: Number of valid frames (B,).
        num_frames: Number to divide by in place of the sum of ``lengths`` (): that of all
            processes, where a batch is divided among them. Their results then add up to the mean
            over the whole batch.

    Returns:
        Scalar, float32 or wider.
    """
    frames = torch.arange(student_BTD.size(1), device=lengths.device)
    mask_BT = frames < lengths.unsqueeze(1)
    dtype = torch.promote_types(student_BTD.dtype, torch.float32)
    student, teacher = student_BTD[mask_BT].to(dtype), teacher_BTD[mask_BT].to(dtype)
    if num_frames is None:
        num_frames = lengths.sum()
    total = torch.nn.functional.mse_loss(student, teacher, reduction="sum")
    return total / (num_frames.clamp(min=1) * student.size(-1))
