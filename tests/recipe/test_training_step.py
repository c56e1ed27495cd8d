"""benchmarks/training_step.py: what is measured is the training step of the YAML."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_recipe import CONFIGURATIONS, ROOT


def test_student_with_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_moe_share.model import MoeShareASRModel

    for name in ("teacher", "student"):
        text = yaml.safe_dump(
            {**CONFIGURATIONS[name], "batch_type": "numel", "batch_bins": 300_000}
        )
        (tmp_path / f"{name}.yaml").write_text(text)
    losses = []
    forward = MoeShareASRModel.forward

    def noted(self, *arguments, **batch):  # type: ignore[no-untyped-def]
        loss, stats, weight = forward(self, *arguments, **batch)
        losses.append((batch["speech"].shape, batch["text"].shape, stats))
        return loss, stats, weight

    monkeypatch.setattr(MoeShareASRModel, "forward", noted)
    program = str(ROOT / "benchmarks/training_step.py")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as Python does for a program
    arguments = [
        *("--config", str(tmp_path / "student.yaml"), "--steps", "2", "--vocab_size", "10"),
        *("--teacher_config", str(tmp_path / "teacher.yaml"), "--device", "cpu"),
    ]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    runpy.run_path(program, run_name="__main__")
    # 72,000 samples and 14 characters of 10 classes each: four utterances fit.
    assert [shapes[:2] for shapes in losses] == 3 * [(torch.Size([4, 72000]), torch.Size([4, 14]))]
    distances = [float(stats["loss_distill"]) for *_, stats in losses]
    assert distances[0] != distances[1] != distances[2]  # the optimiser has moved the weights
    said = capsys.readouterr().out
    step, speech, epoch = (
        float(re.search(pattern, said)[1])  # type: ignore[index]
        for pattern in (r"step: ([\d.]+) s", r"per second: ([\d.]+) s", r"epoch .*: ([\d.]+) h")
    )
    assert "4 utterances of 4.5 s (300000 batch_bins)" in said
    assert speech * step == pytest.approx(18, rel=0.2)
    assert epoch * speech == pytest.approx(120098 * 4.5 / 3600 * (1 / 0.9 + 1 + 1 / 1.1), rel=0.02)
