#!/usr/bin/env python3
"""Compare the expert layer with a dense feed-forward of the same active compute.

    python3 benchmarks/expert_layer.py                      # the rows that have a target
    python3 benchmarks/expert_layer.py --full               # 25 to 32,000 frames, 2 to 32 experts
    python3 benchmarks/expert_layer.py --kernels loop auto --experts 8 --frames 400 1600

The reference is ESPnet's PositionwiseFeedForward with ESPnet's swish and top_k x hidden_units
hidden units. "dense, SiLU" is the same with torch's SiLU, which computes the same function in one
operation: what an expert layer gains by that it does not gain by its kernel. "loop" is the usual
loop over a ModuleList of experts, "all experts" computes every expert for every frame. All expert
layers have the same weights, and the program stops if their outputs differ.

Forward is inference. A training step is forward and backward for a given output gradient; gradients
are None before it.

Shares of limits: floating-point operations per second of the chosen experts' matrix products as a
share of a large matrix product's, and bytes per second of expert weights (read once per forward,
read once and their gradients written once per backward) as a share of a plain copy's, both
measured in the same rounds.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from interleaved import Comparison, compare
from other_experts import AllExperts, LoopOfExperts
from report import add_threads, begin, markdown, parser, write_json

from espnet_moe_share.experts.feed_forward import MixtureOfExperts
from espnet_moe_share.experts.kernels import KERNELS, expert_kernel

PASSES = ("forward", "training step")
# (experts, frames): ratio to the dense feed-forward, top-1 of 256 x 1024, two processors
TARGETS = {
    "forward": {(4, 75): 1.5, (4, 400): 1.35, (4, 1600): 1.05, (4, 6400): 0.9, (32, 1600): 1.7},
    "training step": {
        **{(4, 75): 2.0, (4, 400): 1.3, (4, 1600): 1.1, (4, 6400): 1.0, (32, 1600): 2.0}
    },
}
FULL_EXPERTS, FULL_FRAMES, FULL_TOP_K = (2, 4, 8, 16, 32), (25, 75, 400, 1600, 6400, 32000), (1, 2)
# Above as many rows of hidden activations all experts together take minutes and gigabytes.
ALL_EXPERTS_ROWS = 30_000
MATRIX, COPY = 1536, 16 * 2**20  # rows of a square matrix; float32 values


class Case:
    """One row of the table: its candidates, as calls."""

    def __init__(self, options: Any, num_experts: int, top_k: int, frames: int) -> None:
        torch.manual_seed(0)
        size, units, device = options.size, options.hidden_units, options.device
        layer = MixtureOfExperts(
            size, units, torch.nn.Dropout(options.dropout_rate), Swish(), num_experts, top_k
        )
        self.modules: dict[str, tuple[torch.nn.Module, str | None]] = {}
        for name, activation in (("dense", Swish()), ("dense, SiLU", torch.nn.SiLU())):
            dense = PositionwiseFeedForward(size, top_k * units, options.dropout_rate, activation)
            self.modules[name] = dense, None
        for kernel in options.kernels:
            self.modules[f"experts, {kernel}"] = layer, kernel
        self.modules["loop"] = LoopOfExperts(layer), None
        if num_experts * frames <= ALL_EXPERTS_ROWS:
            self.modules["all experts"] = AllExperts(layer), None
        for module, _ in self.modules.values():
            module.to(device)
        self.autocast = options.autocast
        self.x_BTD = torch.randn(1, frames, size).to(device)
        self.gradient_BTD = torch.randn(1, frames, size).to(device)
        self.products = 2 * 2 * frames * top_k * size * units
        hit = min(num_experts, frames * top_k)
        self.weight_bytes = 4 * hit * (2 * size * units + size + units)

    def output(self, name: str, x_BTD: torch.Tensor) -> torch.Tensor:
        """Run one candidate's forward pass."""
        module, kernel = self.modules[name]
        autocast = torch.autocast(x_BTD.device.type, torch.bfloat16, enabled=self.autocast)
        with expert_kernel(kernel or "auto"), autocast:
            return module(x_BTD)

    def check(self) -> None:
        """Refuse to compare layers that do not compute the same."""
        names = [name for name in self.modules if not name.startswith("dense")]
        with torch.no_grad():
            self._train(False)
            outputs = [self.output(name, self.x_BTD).float() for name in names]
        limit = (0.05 if self.autocast else 1e-4) * float(outputs[0].abs().max())
        for name, output in zip(names, outputs):
            difference = float((output - outputs[0]).abs().max())
            if difference > limit:
                sys.exit(f"expert_layer.py: error: '{name}' differs by {difference:.2g}")

    def _train(self, mode: bool) -> None:
        for module, _ in self.modules.values():
            module.train(mode)

    def calls(self, which: str) -> dict[str, Callable[[], object]]:
        """The candidates, the reference first, as :func:`compare` takes them."""

        def forward(name: str) -> None:
            with torch.no_grad():
                self.output(name, self.x_BTD)

        def training_step(name: str) -> None:
            x_BTD = self.x_BTD.detach().requires_grad_()
            output = self.output(name, x_BTD)
            output.backward(self.gradient_BTD.to(output.dtype))
            for parameter in self.modules[name][0].parameters():
                parameter.grad = None

        self._train(which != "forward")
        step = forward if which == "forward" else training_step
        return {name: lambda name=name: step(name) for name in self.modules}


def limits(device: str, autocast: bool) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """A large matrix product and a plain copy; floating-point operations and bytes of a call."""
    dtype = torch.bfloat16 if autocast else torch.float32
    rows = MATRIX if device == "cpu" else 8 * MATRIX
    a, b = torch.randn(2, rows, rows, device=device, dtype=dtype)
    to, source = torch.randn(2, COPY if device == "cpu" else 16 * COPY, device=device)
    calls: dict[str, Callable[[], object]] = {
        "matrix product": lambda: torch.mm(a, b),
        "copy": lambda: to.copy_(source),
    }
    return calls, {"matrix product": 2.0 * rows**3, "copy": 2.0 * 4 * source.numel()}


def shares(compared: Comparison, case: Case, which: str, work: dict[str, float]) -> dict[str, Any]:
    """Shares of both limits, by candidate."""
    times = 1 if which == "forward" else 3
    peak = {name: work[name] / compared.seconds[name].median for name in work}
    return {
        "matrix_product_flops_per_second": peak["matrix product"],
        "copy_bytes_per_second": peak["copy"],
        "shares": {
            name: {
                "flops": times * case.products / seconds.median / peak["matrix product"],
                "bytes": None
                if name.startswith("dense")
                else times * case.weight_bytes / seconds.median / peak["copy"],
            }
            for name, seconds in compared.seconds.items()
            if name not in work
        },
    }


def table(rows: Sequence[dict[str, Any]], kernels: Sequence[str]) -> str:
    """Ratios to the dense feed-forward, the target beside them, and the shares of the limits."""
    last = f"experts, {kernels[-1]}"
    expert_layers = [f"experts, {kernel}" for kernel in kernels]
    columns = ["dense, SiLU", *expert_layers, "loop", "all experts"]
    names = ["pass", "experts", "top", "frames", "dense (ms)", *columns, "target"]
    names += ["FLOP/s: dense", f"FLOP/s: {last}", f"bytes/s: {last}"]
    lines = []
    for row in rows:
        compared: Comparison = row["compared"]
        share = row["limits"]["shares"]
        target = row["target"]
        lines.append(
            [
                row["pass"],
                *(str(row[key]) for key in ("num_experts", "top_k")),
                f"{row['frames']:,}",
                f"{1e3 * compared.seconds['dense'].median:.2f}",
                *(str(compared.ratios.get(name, "-")) for name in columns),
                "-" if target is None else f"{target:.2f}",
                f"{share['dense']['flops']:.0%}",
                f"{share[last]['flops']:.0%}",
                f"{share[last]['bytes']:.0%}",
            ]
        )
    return markdown(names, lines)


def rows_of(options: Any) -> list[tuple[int, int, int]]:
    """(experts, top-k, frames) of the table's rows."""
    if options.full:
        grid = itertools.product(FULL_EXPERTS, FULL_TOP_K, FULL_FRAMES)
    elif options.experts or options.frames or options.top_k:
        grid = itertools.product(
            options.experts or [4], options.top_k or [1], options.frames or [1600]
        )
    else:
        return [(experts, 1, frames) for experts, frames in TARGETS["forward"]]
    return [(experts, top_k, frames) for experts, top_k, frames in grid if top_k <= experts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__, rounds=15)
    add_threads(made)
    made.add_argument("--full", action="store_true", help="all sizes, hours")
    made.add_argument("--experts", type=int, nargs="+")
    made.add_argument("--top_k", type=int, nargs="+")
    made.add_argument("--frames", type=int, nargs="+")
    made.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    made.add_argument(
        "--kernels", nargs="+", choices=KERNELS, default=["auto"], help=f"of {', '.join(KERNELS)}"
    )
    made.add_argument("--size", type=int, default=256)
    made.add_argument("--hidden_units", type=int, default=1024)
    made.add_argument("--dropout_rate", type=float, default=0.0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--autocast", action="store_true", help="to bfloat16")
    made.add_argument("--row_seconds", type=float, default=20.0, help="no further round after this")
    options, head = begin(made, "expert_layer.py", arguments)
    limit_calls, work = limits(options.device, options.autocast)
    wait = torch.accelerator.synchronize if options.device != "cpu" else lambda: None
    usual = (options.size, options.hidden_units) == (256, 1024)
    rows: list[dict[str, Any]] = []
    for which, (experts, top_k, frames) in itertools.product(options.passes, rows_of(options)):
        case = Case(options, experts, top_k, frames)
        case.check()
        calls = {**case.calls(which), **limit_calls}
        compared = compare(calls, options.rounds, options.seconds, options.row_seconds, wait)
        found = {"pass": which, "num_experts": experts, "top_k": top_k, "frames": frames}
        target = TARGETS[which].get((experts, frames)) if usual and top_k == 1 else None
        reached = shares(compared, case, which, work)
        rows.append({**found, "target": target, "compared": compared, "limits": reached})
        said = {name: f"{ratio.median:.2f}" for name, ratio in compared.ratios.items()}
        print({**found, **said}, file=sys.stderr, flush=True)
    print(table(rows, options.kernels))
    if any(row["num_experts"] * row["frames"] > ALL_EXPERTS_ROWS for row in rows):
        print(f"-: above {ALL_EXPERTS_ROWS:,} experts x frames all experts are not tried.")
    records = [{**row, "compared": row["compared"].record()} for row in rows]
    write_json(options.json, head, rows=records)


if __name__ == "__main__":
    main()
