#!/usr/bin/env python3
"""Real-time factor of recognition: ESPnet's beam search and greedy CTC, teacher against student.

    cd egs2/aishell/asr1    # paths in wav.scp and config.yaml are relative to it
    python3 ../../../benchmarks/recognition.py --teacher_exp exp/asr_TEACHER \\
        --student_exp exp/asr_STUDENT --data_dir dump/raw/mini_test

From waveform to text, on the CPU, features included, models and waveforms in memory. Utterance by
utterance all four recognise it in turn, in an order that rotates; a ratio is the student's time to
the teacher's for the same utterance. Beam search is ESPnet's, with the inference configuration's
settings and no language model; how long it takes also depends on how many characters it finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.fileio.sound_scp import SoundScpReader
from interleaved import summarize
from report import ROOT, begin, markdown, parser, start, write_json

from espnet_moe_share.checkpoint import require_files
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.inference import Speech2Text

_SEARCH = (
    *("beam_size", "ctc_weight", "ctc_window_margin", "penalty", "maxlenratio", "minlenratio"),
)


def greedy_ctc(speech2text: Speech2Text, speech: torch.Tensor) -> str:
    """Text of the best class of every frame, repetitions and blanks left out."""
    model = speech2text.asr_model
    with torch.no_grad():
        encoded, _ = model.encode(speech.unsqueeze(0), torch.tensor([speech.size(0)]))
        if isinstance(encoded, tuple):  # with the outputs that intermediate CTC sees
            encoded = encoded[0]
        ids = model.ctc.argmax(encoded)[0].unique_consecutive()
    tokens = speech2text.converter.ids2tokens(ids[ids != model.blank_id].tolist())
    return speech2text.tokenizer.tokens2text(tokens)


def beam_search(speech2text: Speech2Text, speech: torch.Tensor) -> str:
    """Text of ESPnet's best hypothesis."""
    return speech2text(speech)[0][0] or ""


DECODINGS: dict[str, Callable[[Speech2Text, torch.Tensor], str]] = {
    "beam search": beam_search,
    "greedy CTC": greedy_ctc,
}


def utterances_of(data_dir: Path, number: int) -> list[tuple[torch.Tensor, float]]:
    """Waveforms and their seconds, ``number`` of them, evenly from the whole of wav.scp."""
    reader = SoundScpReader(str(data_dir / "wav.scp"), dtype="float32")
    keys = list(reader.keys())
    if not keys:
        raise ConfigurationError(f"{data_dir}/wav.scp: no utterance in it")
    found = []
    for n in range(min(number, len(keys))):
        rate, samples = reader[keys[n * len(keys) // min(number, len(keys))]]
        found.append((torch.as_tensor(samples), len(samples) / rate))
    return found


def measure(
    models: dict[str, Speech2Text], speeches: Sequence[torch.Tensor], seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Seconds of every utterance, by decoding and model; in turn, in an order that rotates."""
    turns = [(decoding, model) for decoding in DECODINGS for model in models]
    taken: dict[str, dict[str, list[float]]] = {one: {} for one in DECODINGS}
    repetitions = {}

    def turn(decoding: str, model: str, speech: torch.Tensor, times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            DECODINGS[decoding](models[model], speech)
        return (time.perf_counter() - begin) / times

    for decoding, model in turns:
        turn(decoding, model, speeches[0], 1)  # warms up
        repetitions[decoding, model] = max(
            1, round(seconds / turn(decoding, model, speeches[0], 1))
        )
    for speech in speeches:
        for decoding, model in turns:
            one = turn(decoding, model, speech, repetitions[decoding, model])
            taken[decoding].setdefault(model, []).append(one)
        turns = turns[1:] + turns[:1]
    return taken


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Real-time factors and their ratios."""
    columns = ["decoding", "threads", "teacher's RTF", "student's RTF", "student / teacher"]
    return markdown(
        columns,
        [
            [
                row["decoding"],
                str(row["threads"]),
                *(f"{row['real_time_factor'][model]:.4f}" for model in ("teacher", "student")),
                str(row["compared"].ratios["student"]),
            ]
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    made = parser(__doc__)
    made.add_argument("--teacher_exp", type=Path, required=True, help="experiment's folder")
    made.add_argument("--student_exp", type=Path, required=True)
    made.add_argument(
        "--model_file", default="valid.acc.ave.pth", help="in these folders [%(default)s]"
    )
    made.add_argument("--data_dir", type=Path, required=True, help="folder with a wav.scp")
    made.add_argument("--inference_config", type=Path, default=ROOT / "conf/decode_asr.yaml")
    made.add_argument("--utterances", type=int, default=20, help="how many [%(default)s]")
    made.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch [1 2]")
    options, head = begin(made, "recognition.py", arguments)
    require_files(options.inference_config, options.data_dir / "wav.scp")
    settings = yaml.safe_load(options.inference_config.read_text(encoding="utf-8"))
    settings = {name: settings[name] for name in _SEARCH if name in settings}
    models = {
        name: Speech2Text(folder / "config.yaml", folder / options.model_file, **settings)
        for name, folder in (("teacher", options.teacher_exp), ("student", options.student_exp))
    }
    utterances = utterances_of(options.data_dir, options.utterances)
    speeches, seconds = [one for one, _ in utterances], sum(one for _, one in utterances)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for decoding, taken in measure(models, speeches, options.seconds).items():
            factors = {model: sum(values) / seconds for model, values in taken.items()}
            compared = summarize(taken, "teacher")
            found = {"decoding": decoding, "threads": threads, "real_time_factor": factors}
            rows.append({**found, "compared": compared})
    print(f"{len(speeches)} utterances, {seconds:.1f} s; {settings}\n")
    print(table(rows))
    records = [{**row, "compared": row["compared"].record()} for row in rows]
    write_json(options.json, head, speech_seconds=seconds, search=settings, rows=records)


if __name__ == "__main__":
    start(main)
