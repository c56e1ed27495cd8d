#!/usr/bin/env python3
"""What a number of rows costs that has not been multiplied before.

    python3 benchmarks/new_rows.py

oneDNN makes a program for every shape. Other benchmarks call the same inputs again and again and
never see that; in training and recognition an expert gets another number of rows every time. For
numbers from ``--rows`` up: the first product with such a number and later ones, by oneDNN and by
torch's own choice (MKL, where torch was built with it), and the memory that the process keeps for
each number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from interleaved import Spread
from memory import give_back, kilobytes
from report import add_threads, begin, markdown, parser, write_json
from torch.nn import functional as F

from espnet_moe_share.experts.onednn import HAS_ONEDNN, onednn_linear

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
PRODUCTS: dict[str, Product] = {"torch": F.linear}
if HAS_ONEDNN:
    PRODUCTS["oneDNN"] = onednn_linear


def _microseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begin)


def measure(
    product: Product, numbers: Sequence[int], inputs: int, outputs: int, seconds: float
) -> dict[str, Spread | float]:
    """Multiply each of ``numbers`` rows for the first time, and then for ``seconds`` more.

    Returns:
        ``first`` and ``again``, microseconds of a product; ``kept``, kilobytes for each number.
    """
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    x = torch.randn(max(numbers) + 1, inputs)
    product(x, weight, bias)  # what any first call takes
    give_back()
    before = kilobytes("VmRSS")
    first, again = [], []
    for rows in numbers:
        part = x[:rows]

        def call(part: torch.Tensor = part) -> torch.Tensor:
            return product(part, weight, bias)

        first.append(_microseconds(call))
        once = _microseconds(call)
        later = range(max(1, round(seconds / len(numbers) * 1e6 / once)))
        again.append(median(_microseconds(call) for _ in later))
    give_back()
    kept = (kilobytes("VmRSS") - before) / len(numbers)
    return {"first": Spread.of(first), "again": Spread.of(again), "kept": max(0.0, kept)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options_parser = parser(__doc__)
    add_threads(options_parser)
    options_parser.add_argument("--size", type=int, default=256, help="D [256]")
    options_parser.add_argument("--hidden_units", type=int, default=2048, help="H [2048]")
    options_parser.add_argument(
        "--rows", type=int, nargs="+", default=[16, 64, 256, 1024], help="first number of each row"
    )
    options_parser.add_argument("--numbers", type=int, default=20, help="how many from there [20]")
    options, head = begin(options_parser, "new_rows.py", arguments)
    torch.manual_seed(0)
    figures, lines = [], []
    with torch.no_grad():
        for inputs, outputs in (
            (options.size, options.hidden_units),
            (options.hidden_units, options.size),
        ):
            for rows in options.rows:
                numbers = range(rows, rows + options.numbers)
                for name, product in PRODUCTS.items():
                    found = measure(product, numbers, inputs, outputs, options.seconds)
                    shape = {"inputs": inputs, "outputs": outputs, "rows": rows, "product": name}
                    spreads = {key: vars(value) if isinstance(value, Spread) else value
                               for key, value in found.items()}  # fmt: skip
                    figures.append({**shape, **spreads})
                    lines.append([
                        f"{inputs} to {outputs}", f"{rows}-{numbers[-1]}", name,
                        f"{found['first']:.0f}", f"{found['again']:.0f}", f"{found['kept']:.0f}",
                    ])  # fmt: skip
    columns = ["product", "rows", "by", "first, µs", "later, µs", "kept for each number, kB"]
    print(markdown(columns, lines, left=3))
    write_json(options.json, head, figures=figures)


if __name__ == "__main__":
    main()
