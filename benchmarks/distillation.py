#!/usr/bin/env python3
"""Measure what distillation adds to a training step, in units of one encoder forward.

    python3 benchmarks/distillation.py
    python3 benchmarks/distillation.py --student conf/train_moe_share_mini.yaml \\
        --teacher conf/train_teacher_mini.yaml --vocab_size 500

Steps as in training_step.py (whole model, Adam, no data needed, a batch of AISHELL-1's mean length)
of the teacher, of the student alone and of the student with the teacher, in turn, and the
teacher's encoder on the same features. The teacher's forward is all that distillation needs: its
cost should be close to one such pass.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from interleaved import Spread, summarize, take_turns
from report import add_configurations, add_threads, begin, markdown, parser, start, write_json
from training_step import SECONDS, batch_of, parse, untrained_teacher

from espnet_moe_share.task import ASRTask

STEPS = ("teacher", "student", "student with teacher")
PASS = "teacher's encoder forward"


def step(args: Any, batch: dict[str, torch.Tensor]) -> tuple[Any, Callable[[], object]]:
    """Build a model and what trains it for one step: forward, backward, clipping, update."""
    torch.manual_seed(0)
    model = ASRTask.build_model(args).train()
    (optimizer,) = ASRTask.build_optimizers(args, model=model)

    def run() -> None:
        loss, _, _ = model(**batch)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return model, run


def candidates_of(options: Any, folder: Path) -> dict[str, Callable[[], object]]:
    """The three steps and the encoder's pass, on one batch."""
    batch = batch_of(options.utterances, options.vocab_size, "cpu")
    teacher = str(options.teacher)
    further = untrained_teacher(teacher, options.vocab_size, folder)
    alone = parse(str(options.student), options.vocab_size, "--model_conf", "distill_weight=0")
    taught = parse(str(options.student), options.vocab_size, *further)
    if not taught.model_conf.get("distill_weight"):
        sys.exit(f"distillation.py: error: {options.student}: distill_weight is 0 or not there")
    arguments = (parse(teacher, options.vocab_size), alone, taught)
    calls: dict[str, Callable[[], object]] = {}
    for name, args in zip(STEPS, arguments):
        model, calls[name] = step(args, batch)
        if name == "teacher":
            with torch.no_grad():
                features, lengths = model._extract_feats(batch["speech"], batch["speech_lengths"])
            encoder = type(model.encoder)(input_size=features.size(-1), **args.encoder_conf).eval()

    def encode() -> None:
        with torch.no_grad():
            encoder(features, lengths)

    return {**calls, PASS: encode}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__, rounds=9)
    add_threads(made)
    add_configurations(made)
    made.add_argument("--utterances", type=int, default=8, help="of the batch [%(default)s]")
    made.add_argument("--vocab_size", type=int, default=4233)
    options, head = begin(made, "distillation.py", arguments)
    with tempfile.TemporaryDirectory() as folder:
        calls = candidates_of(options, Path(folder))
        taken = take_turns(calls, options.rounds, options.seconds)
    compared = summarize(taken, "teacher")
    speech = options.utterances * SECONDS
    extra = Spread.of(
        [
            (taught - alone) / one
            for taught, alone, one in zip(taken[STEPS[2]], taken[STEPS[1]], taken[PASS])
        ]
    )
    rows = [
        [
            name,
            f"{1e3 * compared.seconds[name].median:.0f}",
            f"{speech / compared.seconds[name].median:.1f}",
            str(compared.ratios[name]),
        ]
        for name in calls
    ]
    columns = ["step", "ms", "seconds of speech per second", "to the teacher's step"]
    print(markdown(columns, rows))
    print(f"distillation adds {extra} forward passes of the teacher's encoder")
    write_json(
        options.json,
        head,
        speech_seconds=speech,
        compared=compared.record(),
        extra_encoder_passes=vars(extra),
    )


if __name__ == "__main__":
    start(main)
