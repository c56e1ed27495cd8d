"""Peak memory of an encoder, each measurement in a fresh process.

``python3 benchmarks/memory.py`` is that process: it reads one JSON object of a task on stdin and
prints one of the result. :func:`measure` starts it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def kilobytes(name: str) -> int:
    """Of /proc/self/status: VmRSS (now) or VmHWM (the most since :func:`_forget_peak`)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def give_back() -> None:
    """Return to the system what has been freed, whatever the malloc settings are.

    Building an encoder takes more than it holds in the end, a student's (layers that are shared
    later) more than a teacher's. What came after would fit in there, and seem to cost nothing.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _tensor_bytes(encoder: Any) -> dict[str, int]:
    """Bytes of parameters, and of all tensors that the modules hold, shared ones once."""
    import torch

    held: dict[int, int] = {}
    for module in encoder.modules():
        # the table of positions is a plain attribute
        for tensor in (
            *module._parameters.values(),
            *module._buffers.values(),
            *vars(module).values(),
        ):
            if isinstance(tensor, torch.Tensor):
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    parameters = sum(one.numel() * one.element_size() for one in encoder.parameters())
    return {"parameters": parameters, "tensors": sum(held.values())}


def measure_here(task: dict[str, Any]) -> dict[str, Any]:
    """Measure in this process, which is best a fresh one; see :func:`measure`."""
    import torch
    from models import EncoderSettings, balance_routers, features_of

    torch.set_num_threads(task["threads"])
    settings = EncoderSettings(**task["settings"])
    settings.encoder_class()  # imports it
    before = kilobytes("VmRSS")
    _forget_peak()
    encoder = settings.build()
    built = kilobytes("VmHWM")
    features, lengths = features_of(settings, task["seconds"])
    size = _tensor_bytes(encoder)
    result: dict[str, Any] = {
        "parameter_bytes": size["parameters"],
        "tensor_bytes": size["tensors"],
        "building_bytes": 1024 * (built - before),
    }
    give_back()
    before = kilobytes("VmRSS")
    _forget_peak()
    # Counted, too: memory that the allocator keeps of it would otherwise seem to cost nothing. Its
    # own peak, of one second of speech, is below that of any longer input.
    balance_routers(encoder, *features_of(settings, [1.0]))
    if task["pass"] == "forward":
        with torch.no_grad():
            encoder.eval()(features, lengths)
    else:
        optimizer = torch.optim.Adam(encoder.train().parameters())
        # The optimizer's state is there from the end of the first step.
        for _ in range(2):
            encoder(features, lengths)[0].square().mean().backward()
            optimizer.step()
            result["gradient_bytes"] = sum(
                one.grad.nbytes for one in encoder.parameters() if one.grad is not None
            )
            optimizer.zero_grad()
        result["optimizer_bytes"] = sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )
    peak = kilobytes("VmHWM")
    result["peak_above_start_bytes"] = 1024 * (peak - before)
    result["peak_bytes"] = size["tensors"] + result["peak_above_start_bytes"]
    result["process_bytes"] = 1024 * peak
    return result


def measure(
    settings: Any, which: str, seconds: list[float], threads: int, runs: int
) -> dict[str, Any]:
    """Measure in new processes.

    Args:
        settings: :class:`models.EncoderSettings`.
        which: ``forward``, or ``training step`` of two with Adam.
        seconds: Lengths of the utterances of the batch.
        threads: Of torch.
        runs: Number of processes. Where threads find free memory is a matter of chance, and the
            peak differs by a tenth from one process to the next.

    Returns:
        Of the run with the median peak, bytes: ``parameter_bytes``; ``tensor_bytes``, all that the
        modules hold; ``building_bytes``, how far the process grew while the encoder was built;
        ``peak_above_start_bytes``, how far the process grew beyond what it had with the encoder
        and the features in memory; ``peak_bytes``, the sum of that and ``tensor_bytes``;
        ``process_bytes``, the whole process with all libraries; for a training step also
        ``gradient_bytes`` and ``optimizer_bytes``, which are within the peak. And
        ``all_peak_bytes``, those of every run, rising.
    """
    task = {"settings": settings.record(), "pass": which, "seconds": seconds, "threads": threads}
    found = sorted((_run(task) for _ in range(runs)), key=lambda one: one["peak_bytes"])
    return {**found[runs // 2], "all_peak_bytes": [one["peak_bytes"] for one in found]}


def _run(task: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"memory.py: error: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    print(json.dumps(measure_here(json.load(sys.stdin))))
