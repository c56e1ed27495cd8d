#!/usr/bin/env python3
"""Measure the training step of a configuration on this machine, without any data.

    python3 benchmarks/training_step.py --config conf/train_teacher_conformer.yaml
    python3 benchmarks/training_step.py --config conf/train_moe_share_conformer.yaml \\
        --teacher_config conf/train_teacher_conformer.yaml

A step is forward, backward and the optimiser's update on one batch of the YAML's size: utterances
of AISHELL-1's mean length and number of characters, as many as ESPnet's batch_type numel puts into
batch_bins. Sound and text are random, which takes as long as real ones. Reading files and
validation are not in it. With --teacher_config the student's step holds the forward pass of a
teacher, which is untrained.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import start

from espnet_moe_share.task import ASRTask

SAMPLE_RATE = 16000
# AISHELL-1's training set: 120,098 utterances, 4,233 tokens. 150 hours are 4.5 s each; dev and test
# have 14.3 and 14.6 characters each.
SECONDS = 4.5
CHARACTERS = 14
VOCABULARY = 4233
UTTERANCES = 120_098
SPEEDS = (0.9, 1.0, 1.1)


def parse(config: str, vocab_size: int, *further: str) -> argparse.Namespace:
    """Everything that asr_train would read of a configuration, defaults included."""
    tokens = ["<blank>", "<unk>", *map(str, range(vocab_size - 3)), "<sos/eos>"]
    with tempfile.TemporaryDirectory() as folder:
        token_list = Path(folder, "tokens.txt")
        token_list.write_text("\n".join(tokens) + "\n")
        arguments = ["--config", config, "--token_list", str(token_list), "--output_dir", folder]
        args: argparse.Namespace = ASRTask.get_parser().parse_args([*arguments, *further])
        args.token_list = tokens
    return args


def batch_of(utterances: int, vocab_size: int, device: str) -> dict[str, torch.Tensor]:
    """A batch as ESPnet collates it: `speech` (batch, samples), `text` (batch, characters)."""
    generator = torch.Generator().manual_seed(0)
    samples = round(SECONDS * SAMPLE_RATE)
    batch = {
        "speech": 0.1 * torch.randn(utterances, samples, generator=generator),
        "speech_lengths": torch.full((utterances,), samples),
        "text": torch.randint(2, vocab_size - 1, (utterances, CHARACTERS), generator=generator),
        "text_lengths": torch.full((utterances,), CHARACTERS),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def utterances_of(batch_bins: int, vocab_size: int) -> int:
    """Size of a batch: numel counts samples and, for every character, the whole vocabulary."""
    return max(1, batch_bins // (round(SECONDS * SAMPLE_RATE) + CHARACTERS * vocab_size))


def untrained_teacher(config: str, vocab_size: int, folder: Path) -> list[str]:
    """Write a model as a training would leave it; return the options that name it."""
    import yaml

    args = parse(config, vocab_size)
    model = ASRTask.build_model(args)
    torch.save(model.state_dict(), folder / "teacher.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)), encoding="utf-8")
    return [
        *("--model_conf", f"teacher_config={folder}/config.yaml"),
        *("--model_conf", f"teacher_model_file={folder}/teacher.pth"),
    ]


def measure(args: argparse.Namespace, batch: dict[str, torch.Tensor], steps: int) -> list[Any]:
    """Seconds of each step (of the clock, of all processors) after one that is not counted."""
    device = batch["speech"].device
    torch.manual_seed(0)
    model = ASRTask.build_model(args).to(device).train()
    (optimizer,) = ASRTask.build_optimizers(args, model=model)
    scaler = torch.amp.GradScaler(device.type, enabled=args.use_amp)
    seconds = []
    for _ in range(steps + 1):
        begin = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, enabled=args.use_amp):
            loss, _, _ = model(**batch)
        scaler.scale(loss.sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return seconds[1:]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--teacher_config", help="of the teacher that the student learns from")
    parser.add_argument("--batch_bins", type=int, help="instead of the configuration's")
    parser.add_argument("--vocab_size", type=int, default=VOCABULARY)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        further = ["--model_conf", "distill_weight=0"]
        if options.teacher_config:
            further = untrained_teacher(options.teacher_config, options.vocab_size, Path(folder))
        args = parse(options.config, options.vocab_size)
        if args.model == "moe_share":
            args = parse(options.config, options.vocab_size, *further)
        # The recipes train in float32 without a GPU: ESPnet's use_amp is for CUDA.
        args.use_amp = args.use_amp and options.device != "cpu"
        batch_bins = options.batch_bins or args.batch_bins
        utterances = utterances_of(batch_bins, options.vocab_size)
        batch = batch_of(utterances, options.vocab_size, options.device)
        seconds = measure(args, batch, options.steps)
    clock, processor = (statistics.median(values) for values in zip(*seconds))
    speech = utterances * SECONDS
    epoch = UTTERANCES * SECONDS * sum(1 / speed for speed in SPEEDS)
    print(f"{options.config}: {utterances} utterances of {SECONDS} s ({batch_bins} batch_bins)")
    print(f"device: {options.device}, {torch.get_num_threads()} threads, use_amp: {args.use_amp}")
    print(f"step: {clock:.2f} s, {processor:.2f} s of processors; median of {options.steps}")
    print(f"speech trained on per second: {speech / clock:.2f} s")
    print(f"epoch of AISHELL-1 at speeds 0.9, 1.0, 1.1: {epoch / speech * clock / 3600:.2f} h")
    if options.device != "cpu":
        print(f"memory at most: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    start(main)
