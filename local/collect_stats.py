"""Stage 10: lengths of all utterances and global mean and variance; stage 6: lengths of texts.

Runs the command in parallel jobs, with what differs between them appended, and aggregates with
ESPnet's own function. The result depends on the data, the token list and the frontend only, so
models share it.
"""

import argparse
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from command_line import UserError, run, written_whole
from data_directory import fingerprint, is_current, read_columns, whole_directory
from jobs import Job, run_jobs
from progress import GrowingFiles, progress_bar
from split_keys import split_keys

# Options of a configuration that the statistics depend on.
RELEVANT = ("frontend", "input_size", "preprocessor", "use_preprocessor")


def relevant_options(config: Path | None, command: list[str]) -> dict[str, object]:
    """The part of configuration and command line that changes the statistics."""
    options: dict[str, object] = {}
    if config is not None:
        try:
            loaded = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{config}: not YAML: {error}") from None
        options = {key: value for key, value in loaded.items() if key.startswith(RELEVANT)}
        model = loaded.get("model_conf") or {}
        options["extract"] = model.get("extract_feats_in_collect_stats", True)
    options["command"] = [
        f"{option} {value}"
        for option, value in zip(command, [*command[1:], ""], strict=True)
        if option.lstrip("-").startswith(RELEVANT) or "extract_feats" in value
    ]
    return options


@dataclass(frozen=True)
class Data:
    """What statistics are collected of: a data directory, or a text with ids (language model)."""

    path: Path

    @property
    def keys(self) -> Path:
        """The list whose first column is divided among the jobs."""
        return self.path if self.path.is_file() else self.path / "wav.scp"

    @property
    def shape(self) -> str:
        """Name of the file in which a job lists the lengths that it has found."""
        return "text_shape" if self.path.is_file() else "speech_shape"

    def digest(self) -> str:
        """Changes when the data do."""
        if self.path.is_file():
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        return fingerprint(self.path)


def append_vocabulary_size(stats: Path, token_type: str, size: int) -> None:
    """Write text_shape.<token_type>: text_shape with `,size` at each line's end, for batch bins."""
    for subset in ("train", "valid"):
        shape = read_columns(stats / subset / "text_shape")
        with written_whole(stats / subset / f"text_shape.{token_type}") as stream:
            stream.writelines(f"{utt} {length},{size}\n" for utt, length in shape.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    data = "data directory, or a language model's text with ids"
    parser.add_argument("--train", type=Path, required=True, help=f"training {data}")
    parser.add_argument("--valid", type=Path, required=True, help=f"validation {data}")
    parser.add_argument("--token_list", type=Path, required=True)
    parser.add_argument("--token_type", required=True)
    parser.add_argument("--feats_normalize", default="global_mvn")
    parser.add_argument("--config", type=Path, help="training configuration")
    parser.add_argument("--output", type=Path, required=True, help="statistics directory")
    parser.add_argument("--nj", type=int, default=4, help="number of jobs")
    parser.add_argument("command", nargs="+", help="asr_train or lm_train with its arguments")
    args = parser.parse_args()
    subsets = {"train": Data(args.train), "valid": Data(args.valid)}
    if args.config is not None and not args.config.is_file():
        raise UserError(f"{args.config}: no such training configuration")
    made_from: dict[str, object] = {
        **{subset: data.digest() for subset, data in subsets.items()},
        "tokens": hashlib.sha256(args.token_list.read_bytes()).hexdigest(),
        "token_type": args.token_type,
        "normalize": args.feats_normalize,
        "options": relevant_options(args.config, args.command),
    }
    if is_current(args.output, made_from):
        print(f"{args.output}: up to date")
        return
    sizes = [len(read_columns(data.keys)) for data in subsets.values()]
    count = max(1, min(args.nj, *sizes))
    logs = args.output.parent / f".{args.output.name}.log"
    shutil.rmtree(logs, ignore_errors=True)
    with whole_directory(args.output, made_from) as temporary:
        parts = range(1, count + 1)
        for subset, data in subsets.items():
            outputs = [temporary / "logdir" / f"{subset}.{n}.scp" for n in parts]
            split_keys(data.keys, outputs)
        jobs = []
        for n in parts:
            specific = ["--train_shape_file", str(temporary / "logdir" / f"train.{n}.scp")]
            specific += ["--valid_shape_file", str(temporary / "logdir" / f"valid.{n}.scp")]
            specific += ["--output_dir", str(temporary / "logdir" / f"stats.{n}")]
            # Logs lie outside the temporary directory, which a failure removes.
            log = logs / f"stats.{n}.log"
            jobs.append(Job(f"statistics job {n}", [*args.command, *specific], log))
        print(f"{count} jobs; logs: {logs}/stats.*.log", flush=True)
        logdirs = [temporary / "logdir" / f"stats.{n}" for n in parts]
        shapes = [d / subset / data.shape for d in logdirs for subset, data in subsets.items()]
        counted = GrowingFiles(shapes, "\n")
        with progress_bar(total=sum(sizes), desc="statistics") as bar:
            run_jobs(jobs, threads=1, watch=lambda: bar.update(counted.added()))
        from espnet2.bin.aggregate_stats_dirs import aggregate_stats_dirs

        aggregate_stats_dirs(
            logdirs,
            temporary,
            "WARNING",
            args.feats_normalize != "global_mvn",
        )
        size = len(args.token_list.read_text(encoding="utf-8").split("\n")) - 1
        append_vocabulary_size(temporary, args.token_type, size)
        for n in parts:
            shutil.move(logs / f"stats.{n}.log", temporary / "logdir" / f"stats.{n}.log")
    shutil.rmtree(logs)
    print(f"{args.output}: complete")


if __name__ == "__main__":
    run(main)
