#!/usr/bin/env python3
"""Compare the student's encoder with the teacher's: time and peak memory.

    python3 benchmarks/encoder.py                   # conf/train_moe_share_conformer.yaml's
    python3 benchmarks/encoder.py --parts time --passes forward
    python3 benchmarks/encoder.py --student conf/tuning/train_moe_share_conformer_linear1024.yaml \\
        --teacher conf/tuning/train_teacher_conformer_linear1024.yaml

The inputs are features of one utterance of 3 s, 10 s and 30 s, and of a training batch whose
utterances differ in length. A training step is forward and backward for a given output gradient,
in training mode, gradients None before it. Ratios are to the teacher's time in the same round.

Memory is measured in a fresh process each. "Peak" is what the modules hold (parameters, buffers,
table of positions) plus how far the process grew above its start, which had them and the features
in memory; in a training step, two with Adam, that includes gradients and optimizer state. "Process"
is all, with Python and the libraries. "Checkpointing" is ESPnet's gradient_checkpoint_layers for
all layers, where the encoder takes it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from interleaved import compare
from memory import measure
from models import EncoderSettings, balance_routers, features_of, spread_lengths
from report import (
    add_configurations,
    add_threads,
    begin,
    from_1,
    markdown,
    parser,
    start,
    write_json,
)

PASSES = ("forward", "training step")
# Ratios of the student to the teacher, of the main system and two processors.
TIME_TARGETS = {"3 s": {"forward": 1.10}, "10 s": {"forward": 1.03}}
BATCH_TARGET = 1.02
MEMORY_TARGETS = {"forward": 0.75, "training step": 1.0}


def inputs_of(options: Any) -> dict[str, list[float]]:
    """Lengths of the utterances by the name of the input."""
    inputs = {f"{one:g} s": [one] for one in options.utterances}
    if options.batch:
        inputs[f"batch of {options.batch}"] = spread_lengths(options.batch, options.batch_seconds)
    return inputs


def steps(
    encoder: Any, features: torch.Tensor, lengths: torch.Tensor, which: str, autocast: bool
) -> Callable[[], object]:
    """What is timed; puts the encoder into the mode for it."""
    device = features.device.type

    def run() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            output: torch.Tensor = encoder(features, lengths)[0]
        return output

    def forward() -> None:
        with torch.no_grad():
            run()

    if which == "forward":
        encoder.eval()
        return forward
    encoder.train()
    parameters = list(encoder.parameters())
    gradient = torch.randn_like(run().detach())

    def training_step() -> None:
        run().backward(gradient)
        for parameter in parameters:
            parameter.grad = None

    return training_step


def times(options: Any, settings: dict[str, EncoderSettings]) -> list[dict[str, Any]]:
    """Teacher and student in turn, for every input and pass."""
    encoders = {name: one.build().to(options.device) for name, one in settings.items()}
    wait = torch.accelerator.synchronize if options.device != "cpu" else lambda: None
    rows = []
    for which, (name, seconds) in itertools.product(options.passes, inputs_of(options).items()):
        calls, shares = {}, {}
        for model, encoder in encoders.items():
            features, lengths = (
                one.to(options.device) for one in features_of(settings[model], seconds)
            )
            shares[model] = balance_routers(encoder, features, lengths)
            calls[model] = steps(encoder, features, lengths, which, options.autocast)
        compared = compare(calls, options.rounds, options.seconds, options.row_seconds, wait)
        target = BATCH_TARGET if len(seconds) > 1 else TIME_TARGETS.get(name, {}).get(which)
        rows.append(
            {
                "input": name,
                "pass": which,
                "target": target,
                "largest_share_of_an_expert": shares["student"],
                "compared": compared,
            }
        )
        print(f"{name}, {which}: {compared.ratios['student']}", file=sys.stderr, flush=True)
    return rows


def time_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of the teacher, ratio of the student, target."""
    columns = ["input", "pass", "teacher (ms)", "student (ms)", "student / teacher", "target"]
    return markdown(
        columns,
        [
            [
                row["input"],
                row["pass"],
                *(
                    f"{1e3 * row['compared'].seconds[name].median:.1f}"
                    for name in ("teacher", "student")
                ),
                str(row["compared"].ratios["student"]),
                "-" if row["target"] is None else f"{row['target']:.2f}",
            ]
            for row in rows
        ],
        left=2,
    )


def peaks(options: Any, settings: dict[str, EncoderSettings]) -> list[dict[str, Any]]:
    """Memory of both, for every input forward, and for the largest in training."""
    inputs = inputs_of(options)
    cases = [(name, "forward", False) for name in inputs] if "forward" in options.passes else []
    if "training step" in options.passes:
        cases += [(list(inputs)[-1], "training step", again) for again in (False, True)]
    rows = []
    for name, which, checkpointing in cases:
        row: dict[str, Any] = {"input": name, "pass": which, "checkpointing": checkpointing}
        for model, one in settings.items():
            if checkpointing and not one.takes("gradient_checkpoint_layers"):
                row[model] = None
                continue
            layers = list(range(1, one.arguments.get("num_blocks", 6) + 1))
            chosen = one.changed(gradient_checkpoint_layers=layers) if checkpointing else one
            row[model] = measure(chosen, which, inputs[name], options.threads, options.memory_runs)
        row["target"] = None if checkpointing else MEMORY_TARGETS[which]
        rows.append(row)
        print(
            f"memory: {name}, {which}, checkpointing: {checkpointing}", file=sys.stderr, flush=True
        )
    return rows


def _megabytes(found: dict[str, Any] | None, *keys: str) -> str:
    values = [None if found is None else found.get(key) for key in keys]
    return " / ".join("-" if value is None else f"{value / 1e6:.0f}" for value in values)


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """Megabytes of both, and the ratio of the peaks."""
    columns = [
        "input",
        "pass",
        "model",
        "parameters / gradients / optimizer (MB)",
        "all tensors (MB)",
        "to build (MB)",
    ]
    columns += ["peak (MB)", "to the teacher's", "target", "process (MB)"]
    lines = []
    for row in rows:
        # of a teacher without checkpointing, where it has none
        plain = next(
            one for one in rows if (one["input"], one["pass"]) == (row["input"], row["pass"])
        )
        reference = (row["teacher"] or plain["teacher"])["peak_bytes"]
        for model in ("teacher", "student"):
            found = row[model]
            target = row["target"] if model == "student" else None
            lines.append(
                [
                    row["input"],
                    row["pass"] + (", checkpointing" if row["checkpointing"] else ""),
                    model,
                    _megabytes(found, "parameter_bytes", "gradient_bytes", "optimizer_bytes"),
                    _megabytes(found, "tensor_bytes"),
                    _megabytes(found, "building_bytes"),
                    _megabytes(found, "peak_bytes"),
                    "-" if found is None else f"{found['peak_bytes'] / reference:.2f}",
                    "-" if target is None else f"{target:.2f}",
                    _megabytes(found, "process_bytes"),
                ]
            )
    return markdown(columns, lines, left=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__, rounds=21)
    add_threads(made)
    add_configurations(made)
    made.add_argument("--parts", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    made.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    made.add_argument("--utterances", type=float, nargs="*", default=[3, 10, 30], help="seconds")
    made.add_argument("--batch", type=int, default=16, help="utterances; 0: none [16]")
    made.add_argument("--batch_seconds", type=float, default=4.5, help="mean of the batch [4.5]")
    made.add_argument("--device", default="cpu", help="for times; memory is the CPU's [cpu]")
    made.add_argument("--autocast", action="store_true", help="times with bfloat16")
    made.add_argument(
        "--memory_runs", type=from_1, default=3, help="fresh processes for each peak [3]"
    )
    made.add_argument("--row_seconds", type=float, default=30.0, help="no further round after this")
    options, head = begin(made, "encoder.py", arguments)
    settings = {
        "teacher": EncoderSettings.read(options.teacher),
        "student": EncoderSettings.read(options.student),
    }
    content: dict[str, Any] = {}
    if "time" in options.parts:
        rows = times(options, settings)
        print(time_table(rows), flush=True)
        content["times"] = [{**row, "compared": row["compared"].record()} for row in rows]
    if "memory" in options.parts:
        content["memory"] = peaks(options, settings)
        print(memory_table(content["memory"]), flush=True)
    write_json(options.json, head, **content)


if __name__ == "__main__":
    start(main)
