"""Run a trained model over a data directory and show how it uses its experts.

    python -m espnet_moe_share.bin.expert_usage --asr_train_config exp/asr_student/config.yaml \
        --asr_model_file exp/asr_student/valid.acc.ave.pth --data_dir dump/raw/test \
        --output_dir exp/asr_student/expert_usage

Writes expert_usage.json and figures (PNG and PDF); docs/expert_usage.md says what each shows.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espnet_moe_share.errors import ConfigurationError, exit_in_one_line
from espnet_moe_share.files import check_writable, whole_file
from espnet_moe_share.usage.data import DataDirectory, read_data_directory

_JSON = "expert_usage.json"


def get_parser() -> argparse.ArgumentParser:
    """Options, named as those of ``espnet2.bin.asr_inference`` where that has them."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_moe_share.bin.expert_usage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--asr_train_config", required=True, help="config.yaml of the training")
    parser.add_argument("--asr_model_file", required=True, help="its model, *.pth")
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="directory with wav.scp and, as far as they are wanted, text and utt2* labels",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="where the files go")
    parser.add_argument("--utt_id", help="utterance to draw in full [the first]")
    parser.add_argument(
        "--shuffle_utts",
        type=_not_negative,
        default=200,
        help="at most so many utterances are recognised again with shuffled experts [200]",
    )
    parser.add_argument("--font", type=Path, help="font file for the tokens [any that has them]")
    parser.add_argument("--ngpu", type=int, default=0, help="0: on the CPU [0]")
    return parser


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a number of 0 or more is needed")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    args = get_parser().parse_args(arguments)
    with exit_in_one_line("expert_usage"):
        data = read_data_directory(args.data_dir)
        traced = args.utt_id or next(iter(data.recordings))
        if traced not in data.recordings:
            raise ConfigurationError(f"--utt_id {traced}: not in {args.data_dir / 'wav.scp'}")
        if args.font is not None and not args.font.is_file():
            raise ConfigurationError(f"--font {args.font}: no such file")
        check_writable(args.output_dir / _JSON)
        _measure_and_draw(args, data, traced)


def _measure_and_draw(args: argparse.Namespace, data: DataDirectory, traced: str) -> None:
    from espnet_moe_share.plotting import save
    from espnet_moe_share.usage.figures import (
        MOST_LABELS,
        label_figure,
        load_figure,
        routing_figure,
        shuffle_figure,
    )
    from espnet_moe_share.usage.lettering import HINT, find_lettering

    # ESPnet says on stderr which optional packages are missing.
    with contextlib.redirect_stderr(io.StringIO()):
        from espnet_moe_share.usage.measure import measure
        from espnet_moe_share.usage.model import UsageModel
        from espnet_moe_share.usage.utterance_figure import utterance_figure

    device = "cuda" if args.ngpu > 0 else "cpu"
    model = UsageModel.from_files(args.asr_train_config, args.asr_model_file, device)
    if not model.has_ctc:
        print("expert_usage: no CTC in the model, so nothing by token or of shuffling")
    seconds = 0.5 if sys.stderr.isatty() else 30.0  # between two lines of a log
    measured = measure(
        *(model, data, traced, args.shuffle_utts),
        progress=lambda names: tqdm(names, unit="utt", mininterval=seconds, maxinterval=seconds),
    )
    summary = measured.summary()
    trace = measured.trace
    assert trace is not None
    tokens = [model.token_list[token.number] for token in trace.tokens]
    shown = [
        str(label["label"])
        for kind in summary["by_label"].values()
        for label in kind["labels"][:MOST_LABELS]
    ]
    lettering = find_lettering([*tokens, *shown, traced], args.font)
    if lettering.note:
        print(f"expert_usage: {lettering.note}; {HINT}", file=sys.stderr)
    summary["utterance"] = _describe(model, trace)
    with whole_file(args.output_dir / _JSON) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")

    layers = summary["layers"]
    with lettering.used():
        figures = {
            "load": load_figure(
                {layer["name"]: layer["load"] for layer in layers},
                f"Load of the experts: {args.data_dir.name}",
            ),
            "routing": routing_figure(summary),
            "utterance": utterance_figure(
                trace,
                [lettering.write(token) for token in tokens],
                lettering.write(summary["utterance"]["text"]),
                max(layer["num_experts"] for layer in layers),
                model.sampling_rate,
            ),
        }
        for name, kind in summary["by_label"].items():
            for label in kind["labels"]:
                label["label"] = lettering.write(label["label"])
            what = "token (likeliest by CTC)" if name == "token" else name
            figures[f"by_{name}"] = label_figure(kind, f"Load of the experts by {what}", name)
        if "shuffle" in summary:
            figures["shuffle"] = shuffle_figure(summary["shuffle"])
        for name, figure in figures.items():
            if lettering.note and name in ("utterance", "by_token"):
                figure.supxlabel(lettering.note, fontsize="x-small", ha="right", x=0.99)
            save(figure, args.output_dir / name)
    print(
        f"{args.output_dir}: {_JSON} and {len(figures)} figures (png, pdf) of "
        f"{len(data.recordings)} utterances, {len(layers)} expert layers"
    )


def _describe(model: Any, trace: Any) -> dict[str, Any]:
    """The utterance's figure in numbers."""
    frames = next(iter(trace.encoded.routings.values())).expert_ids_NK.size(0)
    return {
        "id": trace.utterance,
        "seconds": len(trace.samples) / model.sampling_rate,
        "frames": frames,
        "text": model.text(trace.encoded),
        "tokens": [
            {"token": model.token_list[token.number], "begin": token.begin, "end": token.end}
            for token in trace.tokens
        ],
        "experts": {
            path: routing.expert_ids_NK.tolist() for path, routing in trace.encoded.routings.items()
        },
    }


if __name__ == "__main__":
    main()
