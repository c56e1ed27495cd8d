"""Stage 12: decode one data set in parallel jobs; jobs that an interruption left are redone.

Appends to the command what differs between jobs and joins what they wrote into
`<output>/{text,token,token_int,score}`.
"""

import argparse
import hashlib
import itertools
import json
import shutil
import time
from pathlib import Path

from command_line import UserError, require_files, run, written_whole
from data_directory import STAMP, fingerprint, read_columns, write_columns
from experiment import training_options
from jobs import Job, exclusive, run_jobs
from progress import GrowingFiles, progress_bar
from split_keys import split_keys

FILES = ("token", "token_int", "score", "text")


def describe(data: Path, files: list[Path], command: list[str], jobs: int) -> dict[str, object]:
    """What the hypotheses depend on."""
    digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    arguments = command[command.index("-m") :] if "-m" in command else command
    return {"data": fingerprint(data), "files": digests, "command": arguments, "nj": jobs}


def check_language_model(command: list[str]) -> None:
    """Refuse a language model of other tokens, whose scores would be those of other words.

    Raises:
        UserError: the token lists differ.
    """
    options = dict(itertools.pairwise(command))
    configs = [options.get(f"--{kind}_train_config") for kind in ("asr", "lm")]
    if not all(configs):
        return
    asr, lm = (Path(str(config)) for config in configs)
    lists = [training_options(config.parent).get("token_list") for config in (asr, lm)]
    if lists[0] != lists[1]:
        raise UserError(
            f"{lm} has another token list than {asr}; train the language model on the tokens of "
            "this recipe (stages 6 and 7)"
        )


def join(parts: list[Path], utterances: dict[str, str], output: Path) -> None:
    """Join the jobs' result files.

    Raises:
        UserError: the hypotheses are not those of exactly the given utterances.
    """
    for name in FILES:
        joined: dict[str, str] = {}
        for part in parts:
            joined.update(read_columns(part / "1best_recog" / name))
        missing = utterances.keys() - joined.keys()
        if missing:
            raise UserError(f"{output}: no {name} for {len(missing)} utterances: {min(missing)} …")
        write_columns(output / name, joined)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dump/raw/<set>")
    parser.add_argument("--output", type=Path, required=True, help="<exp>/<decode tag>/<set>")
    parser.add_argument("--nj", type=int, default=4, help="number of jobs")
    parser.add_argument("--depends", type=Path, nargs="+", default=[], help="model, configuration")
    parser.add_argument("command", nargs="+", help="espnet2.bin.asr_inference with its arguments")
    args = parser.parse_args()
    output: Path = args.output
    require_files(args.depends, "is the model trained (stage 11; a language model: 7)?")
    check_language_model(args.command)
    utterances = read_columns(args.data / "wav.scp")
    count = max(1, min(args.nj, len(utterances)))
    logs = output / "logdir"
    with exclusive(output):
        made_from = json.loads(json.dumps(describe(args.data, args.depends, args.command, count)))
        started = logs / ".decoding.json"
        known = started.is_file() and json.loads(started.read_text("utf-8")) == made_from
        if not known:
            # Results of another model or other options must not be joined with these.
            shutil.rmtree(logs, ignore_errors=True)
            for name in (*FILES, STAMP):
                (output / name).unlink(missing_ok=True)
        elif (output / STAMP).is_file():
            print(f"{output}: already decoded")
            return
        keys = [logs / f"keys.{n}.scp" for n in range(1, count + 1)]
        sizes = split_keys(args.data / "wav.scp", keys)
        with written_whole(started) as stream:
            json.dump(made_from, stream, indent=1)
        parts = [logs / f"output.{n}" for n in range(1, count + 1)]
        jobs: dict[str, Path] = {}
        todo: list[Job] = []
        done = 0
        for n, (key_file, part, size) in enumerate(zip(keys, parts, sizes, strict=True), 1):
            if (part / STAMP).is_file():
                done += size
                continue
            shutil.rmtree(part, ignore_errors=True)
            specific = ["--key_file", str(key_file), "--output_dir", str(part)]
            job = Job(
                f"decoding job {n}", [*args.command, *specific], logs / f"asr_inference.{n}.log"
            )
            job.log.unlink(missing_ok=True)
            jobs[job.name] = part
            todo.append(job)
        print(f"{output}: {len(todo)} jobs; logs: {logs}/asr_inference.*.log", flush=True)
        start = time.monotonic()
        # Counted in the logs: the result files are buffered.
        counted = GrowingFiles([job.log for job in todo], "speech length: ")
        with progress_bar(total=len(utterances), initial=done, desc="decoded") as bar:
            run_jobs(
                todo,
                threads=1,
                watch=lambda: bar.update(counted.added()),
                on_success=lambda job: (jobs[job.name] / STAMP).touch(),
            )
        join(parts, utterances, output)
        (output / STAMP).touch()
        print(f"{output}: {len(utterances)} utterances in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    run(main)
