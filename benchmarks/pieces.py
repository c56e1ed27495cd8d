#!/usr/bin/env python3
"""The pieces that experts and encoder are made of, beside what else would do the same.

    python3 benchmarks/pieces.py

Products of as many rows as an expert gets: torch's own (MKL, where torch was built with it) beside
oneDNN's, of a plain weight, of one that was packed before, and with the activation that follows
(SiLU) in the same call or after it; and one batched product of all experts. The second layer's
weights lie by columns, as in the experts. Gradients of a weight of D x H, written by rows and by
columns, to memory that is not in cache, with and without zeros written there before, and all
experts' as one batched product. Sums of an expert's rows, the gradients of biases. Rows of D moved
to another order: by reading, by writing, and by adding. The two convolutions of ESPnet's input
layer conv2d, with the channels of a place apart from each other, torch's order, and side by side
("channels last").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from interleaved import compare
from report import add_threads, begin, markdown, parser, write_json
from torch.nn import functional as F

from espnet_moe_share.experts.expert_rows import batched_rows, own_rows
from espnet_moe_share.experts.onednn import HAS_ONEDNN, onednn_linear
from espnet_moe_share.experts.packed_weights import pack

EXPERTS, GRADIENTS = 4, 6
Candidates = dict[str, Callable[[], object]]


def products(rows: int, inputs: int, outputs: int) -> Candidates:
    """``rows`` for each expert."""
    x = torch.randn(EXPERTS, rows, inputs)
    weight, bias = torch.randn(EXPERTS, outputs, inputs), torch.randn(EXPERTS, outputs)
    if inputs > outputs:
        weight = weight.mT.contiguous().mT
    silu = torch.nn.SiLU()
    pieces = list(zip(x, weight, bias))
    batch = batched_rows([rows * (e + 1) for e in range(EXPERTS)])
    candidates: Candidates = {
        "torch": lambda: [F.linear(*piece) for piece in pieces],
        "torch, then SiLU": lambda: [silu(F.linear(*piece)) for piece in pieces],
        "one batch": lambda: batch.linear(x.flatten(0, 1), weight, bias),
    }
    if HAS_ONEDNN:
        candidates["oneDNN"] = lambda: [onednn_linear(*piece) for piece in pieces]
    packed = pack(torch.nn.Parameter(weight), bias, torch.nn.Parameter(weight.mT), bias)
    if packed is not None:
        ready = [(x, expert[0], bias) for (x, _, bias), expert in zip(pieces, packed)]
        candidates |= {
            "packed": lambda: [onednn_linear(*piece) for piece in ready],
            "packed, then SiLU": lambda: [
                F.silu(onednn_linear(*piece), inplace=True) for piece in ready
            ],
            "packed, with SiLU": lambda: [onednn_linear(*piece, silu) for piece in ready],
        }
    return candidates


def weight_gradients(rows: int, inputs: int, outputs: int) -> Candidates:
    """Of ``outputs`` x ``inputs``, summed over ``rows`` for each expert."""
    x, grad = torch.randn(EXPERTS, rows, inputs), torch.randn(EXPERTS, rows, outputs)
    # by turns, so that what is written has left the caches, as in a training step
    by_rows = cycle(torch.empty(GRADIENTS, EXPERTS, outputs, inputs))
    by_columns = cycle(torch.empty(GRADIENTS, EXPERTS, inputs, outputs))

    def call(lefts: torch.Tensor, rights: torch.Tensor, outs: Any, zeros: bool) -> None:
        for left, right, out in zip(lefts, rights, next(outs)):
            if zeros:
                out.zero_()
            torch.mm(left.t(), right, out=out)

    def batch(left: torch.Tensor, right: torch.Tensor, outs: Any) -> None:
        torch.bmm(left.mT, right, out=next(outs))

    return {
        "by rows": lambda: call(grad, x, by_rows, False),
        "by rows, over zeros": lambda: call(grad, x, by_rows, True),
        "by columns": lambda: call(x, grad, by_columns, False),
        "by columns, over zeros": lambda: call(x, grad, by_columns, True),
        "one batch, by rows": lambda: batch(grad, x, by_rows),
        "one batch, by columns": lambda: batch(x, grad, by_columns),
    }


def sums(rows: int, size: int) -> Candidates:
    """Of ``rows`` for each expert."""
    x = torch.randn(EXPERTS * rows, size)
    ends = [rows * (e + 1) for e in range(EXPERTS)]
    lengths = torch.full((EXPERTS,), rows)
    expert_S = torch.arange(EXPERTS).repeat_interleave(rows)

    def one_by_one() -> None:
        out = x.new_empty(EXPERTS, size)
        for piece, y in zip(x.split(rows), out):
            torch.sum(piece, dim=0, out=y)

    return {
        "one by one": one_by_one,
        "embedding_bag": lambda: own_rows(ends).sum(x),
        "one-hot product": lambda: F.one_hot(expert_S, EXPERTS).to(x.dtype).t() @ x,
        "segment_reduce": lambda: torch.segment_reduce(x, "sum", lengths=lengths, axis=0),
    }


def moves(rows: int, size: int) -> Candidates:
    """All rows to another place."""
    x, places = torch.randn(rows, size), torch.randperm(rows)
    sources = places.argsort()
    return {
        "index_select": lambda: x.index_select(0, sources),
        "x[index]": lambda: x[sources],
        "index_copy": lambda: torch.empty_like(x).index_copy_(0, places, x),
        "index_put": lambda: torch.empty_like(x).index_put_((places,), x),
        "index_add": lambda: torch.zeros_like(x).index_add_(0, places, x),
    }


def input_layer(frames: int, size: int, mels: int, training: bool) -> Candidates:
    """Of one utterance; forward alone, or with the gradients of the weights."""
    convolutions = Conv2dSubsampling(mels, size, 0.0).conv
    x_1LF = torch.randn(1, frames, mels)
    # of one channel, the same numbers with another stride, by which torch goes
    last = x_1LF.unsqueeze(3).permute(0, 3, 1, 2)
    inputs = {"torch's order": x_1LF.unsqueeze(1), "channels last": last}

    def call(x: torch.Tensor) -> None:
        with torch.set_grad_enabled(training):
            y = convolutions(x)
        if training:
            y.backward(torch.ones_like(y))
            convolutions.zero_grad()

    return {name: partial(call, one) for name, one in inputs.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options_parser = parser(__doc__, rounds=31)
    add_threads(options_parser)
    options_parser.add_argument("--size", type=int, default=256, help="D [256]")
    options_parser.add_argument("--hidden_units", type=int, default=1024, help="H [1024]")
    options_parser.add_argument(
        "--rows", type=int, nargs="+", default=[19, 62, 100, 250, 1600], help="of each expert"
    )
    options_parser.add_argument("--mels", type=int, default=80, help="of a feature frame [80]")
    options_parser.add_argument(
        "--frames", type=int, nargs="+", default=[375, 1250, 3750], help="of an utterance"
    )
    options, head = begin(options_parser, "pieces.py", arguments)
    torch.manual_seed(0)
    size, hidden = options.size, options.hidden_units
    per_expert: dict[str, Callable[[int], Candidates]] = {
        f"product, {size} to {hidden}": lambda rows: products(rows, size, hidden),
        f"product, {hidden} to {size}": lambda rows: products(rows, hidden, size),
        f"gradient of {hidden} x {size}": lambda rows: weight_gradients(rows, size, hidden),
        f"gradient of {size} x {hidden}": lambda rows: weight_gradients(rows, hidden, size),
        f"sums of rows of {hidden}": lambda rows: sums(rows, hidden),
        f"rows of {size} moved": lambda rows: moves(EXPERTS * rows, size),
    }
    per_utterance: dict[str, Callable[[int], Candidates]] = {
        f"input layer, {which}": partial(
            input_layer, size=size, mels=options.mels, training=which == "training step"
        )
        for which in ("forward", "training step")
    }
    groups = [
        (name, make, "rows of each expert", options.rows) for name, make in per_expert.items()
    ]
    groups += [(name, make, "frames", options.frames) for name, make in per_utterance.items()]
    figures = []
    with torch.no_grad():
        for group, make, unit, counts in groups:
            lines = []
            for count in counts:
                result = compare(make(count), options.rounds, options.seconds)
                figures.append({"piece": group, "unit": unit, "count": count, **result.record()})
                reference = f"{result.seconds[result.reference].median * 1e6:.0f}"
                ratios = [str(r) for name, r in result.ratios.items() if name != result.reference]
                lines.append([str(count), reference, *ratios])
            names = [name for name in result.ratios if name != result.reference]
            columns = [unit, f"{result.reference}, µs", *names]
            print(f"{group}; ratios to {result.reference}\n\n{markdown(columns, lines, left=0)}")
    write_json(options.json, head, figures=figures)


if __name__ == "__main__":
    main()
