"""ESPnet's --train_dtype float64: the teacher was loaded as float32 beside a float64 student.

The trainer changes the student's dtype before training begins, and so before the teacher is there.
"""

from typing import Any

import torch
from tiny_models import batch, build


def test_teacher_takes_the_dtype_that_the_student_has_already(
    student_settings: dict[str, Any],
) -> None:
    student = build(student_settings).to(torch.float64).train()
    data = batch()
    data["speech"] = data["speech"].double()
    loss, stats, _ = student(**data)
    assert loss.dtype == stats["loss_distill"].dtype == torch.float64
    assert {p.dtype for p in student.teacher.model.parameters()} == {torch.float64}
