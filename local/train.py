"""Stages 7 and 11: train one model, resume it, or find it finished; show a line for every epoch.

ESPnet resumes whatever lies in the experiment directory. This program first makes sure that it is
the same configuration on the same data, and that no checkpoint is half written.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import yaml
from command_line import UserError, require_files, run, written_whole
from jobs import Job, exclusive, run_jobs

RECORD, FINISHED = ".training.json", ".finished.json"
# Changing these continues the same training.
FREE_OPTIONS = (
    *("max_epoch", "patience", "ngpu", "num_workers", "log_interval", "num_att_plot"),
    *("multiprocessing_distributed", "dist_backend", "dist_init_method", "dist_launcher"),
)


def describe(config: Path | None, command: list[str]) -> dict[str, object]:
    """What a training is: configuration, arguments, data, and the files its arguments name."""
    loaded: dict[str, object] = {}
    if config is not None:
        if not config.is_file():
            raise UserError(f"{config}: no such training configuration")
        try:
            loaded = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{config}: not YAML: {error}") from None
    arguments = command[command.index("-m") :] if "-m" in command else command
    files: dict[str, str] = {}
    for argument in arguments:
        path = Path(argument.partition("=")[2])
        # Such as model_conf's teacher_model_file: another teacher is another training.
        if path.name and path.is_file():
            files[argument] = hashlib.sha256(path.read_bytes()).hexdigest()
    # Lengths, texts and tokens: data that are made anew in the same way count as the same.
    digest = hashlib.sha256()
    texts = [a.split(",")[0] for a in arguments if a.endswith(",text,text")]
    pairs = list(itertools.pairwise(arguments))
    lists = [b for a, b in pairs if a == "--token_list"]
    # The first of each: that of the speech, or of a language model's text.
    options = ("--train_shape_file", "--valid_shape_file")
    shapes = [next((b for a, b in pairs if a == option), "") for option in options]
    for name in (*filter(None, shapes), *texts, *lists):
        require_files([Path(name)], "run the stages before this one first")
        digest.update(Path(name).read_bytes())
    return {
        "config": loaded,
        "arguments": arguments,
        "data": digest.hexdigest(),
        "files": files,
    }


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """What of a description has changed in a way that another training would be needed."""
    changed = []
    before, after = found.get("config"), wanted["config"]
    assert isinstance(before, dict) and isinstance(after, dict)
    for key in sorted({*before, *after} - set(FREE_OPTIONS)):
        if before.get(key) != after.get(key):
            changed.append(f"{key} of the configuration")
    if _bound(found["arguments"]) != _bound(wanted["arguments"]):
        changed.append("the arguments")
    if found["data"] != wanted["data"]:
        changed.append("the data")
    if found["files"] != wanted["files"]:
        changed.append("a file that the arguments name")
    return changed


def _bound(arguments: object) -> list[tuple[str, str]]:
    """(option, value) pairs without those that continue the same training."""
    assert isinstance(arguments, list)
    free = {f"--{name}" for name in FREE_OPTIONS} | {"--config"}
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return [(a, b) for a, b in pairs if a.startswith("-") and a not in free]


class Checkpoints:
    """The checkpoints of one experiment; keeps a copy of the last complete one.

    ESPnet writes checkpoint.pth in place: a kill or a full disk in that moment would lose the
    whole training.
    """

    def __init__(self, experiment: Path) -> None:
        self.current = experiment / "checkpoint.pth"
        self.copy = experiment / "checkpoint.previous.pth"
        self.latest = experiment / "latest.pth"
        self._copied = 0

    def keep_copy(self) -> None:
        """Copy checkpoint.pth once ESPnet has finished the epoch's files."""
        try:
            written = self.current.stat().st_mtime_ns
            # latest.pth is linked after checkpoint.pth and the epoch's model are closed.
            if written == self._copied or self.latest.lstat().st_mtime_ns < written:
                return
            temporary = self.copy.with_suffix(".tmp")
            shutil.copyfile(self.current, temporary)
            if is_complete(temporary) and self.current.stat().st_mtime_ns == written:
                os.replace(temporary, self.copy)
                self._copied = written
        except OSError:
            # No copy this time: no room for it, or no checkpoint yet. Training itself goes on.
            self.copy.with_suffix(".tmp").unlink(missing_ok=True)

    def repair(self) -> None:
        """Make a killed training fit to be resumed."""
        if self.current.exists() and not is_complete(self.current):
            if is_complete(self.copy):
                print(f"{self.current} is damaged; going on from the epoch before", flush=True)
                os.replace(self.copy, self.current)
            else:
                print(f"{self.current} is damaged; training starts again", flush=True)
                self.current.unlink()
        if not self.current.exists():
            return
        damaged = [p for p in self.current.parent.glob("*epoch.pth") if not is_complete(p)]
        for path in damaged:
            path.unlink()
        linked = self.latest.lstat().st_mtime_ns if self.latest.exists() else 0
        # ESPnet links latest.pth last: an older link tells of an epoch that was not finished.
        if damaged or linked < self.current.stat().st_mtime_ns:
            self._restore_epoch()

    def cut_off(self) -> Path | None:
        """A file that is written in part only, if there is one."""
        files = sorted(self.current.parent.glob("*.pth"))
        return next((file for file in files if file.exists() and not is_complete(file)), None)

    def remove_copy(self) -> None:
        self.copy.unlink(missing_ok=True)

    def _restore_epoch(self) -> None:
        """Write the model of the checkpoint's epoch, which ESPnet would have written next."""
        import torch

        states = torch.load(self.current, map_location="cpu", weights_only=True)
        epoch = states["reporter"]["epoch"]
        model = self.current.parent / f"{epoch}epoch.pth"
        if not model.exists():
            temporary = model.with_suffix(".tmp")
            torch.save(states["model"], temporary)
            os.replace(temporary, model)
        self.latest.unlink(missing_ok=True)
        self.latest.symlink_to(model.name)


def is_complete(path: Path) -> bool:
    """Whether a file of torch.save, a zip archive with its directory at the end, is all there."""
    return path.is_file() and zipfile.is_zipfile(path)


class EpochLines:
    """Prints a short line for each epoch that a growing training log reports."""

    def __init__(self, log: Path, experiment: Path) -> None:
        self.log = log
        self.config = experiment / "config.yaml"
        self.position = 0
        self.rest = ""
        self.last_line = time.monotonic()

    def show(self) -> None:
        """Print what has been added to the log since the last call."""
        if not self.log.exists():
            return
        with open(self.log, encoding="utf-8", errors="replace") as stream:
            stream.seek(self.position)
            self.rest += stream.read()
            self.position = stream.tell()
        *lines, self.rest = self.rest.split("\n")
        batch = ""
        for line in lines:
            if epoch := re.search(r" (\d+)epoch results: (.*)", line):
                print(epoch_line(int(epoch[1]), self._last_epoch(), epoch[2]), flush=True)
                self.last_line = time.monotonic()
            elif step := re.search(r" (\d+epoch:train:[\d-]+batch): (.*)", line):
                loss = re.search(r"\bloss=([^,]+)", step[2])
                batch = f"  {step[1]}: loss {loss[1] if loss else '?'}"
        # Only where an epoch takes long; the epoch's own line says it better.
        if batch and time.monotonic() - self.last_line > 60:
            print(batch, flush=True)
            self.last_line = time.monotonic()

    def _last_epoch(self) -> str:
        # The file can be tens of thousands of lines long with its token list; no YAML parse.
        found = re.search(r"^max_epoch: (\d+)", self.config.read_text("utf-8"), re.MULTILINE)
        return found[1] if found else "?"


def epoch_line(epoch: int, last: str, results: str) -> str:
    """Shorten the text of ESPnet's `epoch results` line."""
    train, _, valid = results.partition("[valid]")
    valid = valid.partition("[att_plot]")[0]
    parts = [f"epoch {epoch}/{last}:"]
    for label, text, names in (
        ("train", train, ("loss",)),
        ("valid", valid, ("loss", "acc", "cer_ctc", "cer")),
    ):
        for name in names:
            if value := re.search(rf"(?:^|[ ,]){name}=([-+.\deinfa]+)", text):
                parts.append(f"{label} {name} {float(value[1]):.4g},")
    seconds = sum(_seconds(value) for value in re.findall(r"\btime=([^,]+)", train + valid))
    return " ".join([*parts, f"{seconds:.0f} s"])


def _seconds(text: str) -> float:
    """Length of a time as ESPnet prints it, `1 minute and 2.5 seconds`."""
    units = {"hour": 3600.0, "minute": 60.0, "second": 1.0}
    found = re.findall(r"([\d.]+) (hour|minute|second)", text)
    return sum(float(number) * units[unit] for number, unit in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="exp/<asr or lm>_<tag>")
    parser.add_argument("--config", type=Path, help="training configuration")
    parser.add_argument("command", nargs="+", help="asr_train or lm_train with its arguments")
    args = parser.parse_args()
    wanted = json.loads(json.dumps(describe(args.config, args.command), default=str))
    experiment: Path = args.experiment
    kind = "lm" if "espnet2.bin.lm_train" in args.command else "asr"
    with exclusive(experiment):
        if (experiment / RECORD).is_file() and (experiment / "checkpoint.pth").exists():
            found = json.loads((experiment / RECORD).read_text(encoding="utf-8"))
            if changed := differences(found, wanted):
                raise UserError(
                    f"{experiment} holds a training with other settings ({', '.join(changed)} "
                    f"changed); give another --{kind}_tag or --expdir, or remove it"
                )
            finished = experiment / FINISHED
            if finished.is_file() and json.loads(finished.read_text("utf-8")) == wanted:
                print(f"{experiment}: already trained")
                return
        checkpoints = Checkpoints(experiment)
        checkpoints.repair()
        (experiment / FINISHED).unlink(missing_ok=True)
        with written_whole(experiment / RECORD) as stream:
            json.dump(wanted, stream, indent=1)
        log = experiment / "train.log"
        if log.exists():
            os.replace(log, experiment / f"train.{time.strftime('%Y%m%d-%H%M%S')}.log")
        epochs = EpochLines(log, experiment)

        def watch() -> None:
            checkpoints.keep_copy()
            epochs.show()

        resumed = "resumed" if checkpoints.current.exists() else "started"
        print(f"training {resumed}; log: {log}", flush=True)
        try:
            run_jobs([Job("training", args.command, log)], watch=watch)
        except UserError as error:
            if (file := checkpoints.cut_off()) is None:
                raise
            # PyTorch's own words for a full disk are "unexpected pos 249152 vs 249044".
            free = shutil.disk_usage(experiment).free / 1e6
            raise UserError(
                f"{file} is written in part only: is the disk full ({free:,.0f} MB are free)? Make "
                f"room; the same command goes on from the last complete epoch; {error}"
            ) from None
        with written_whole(experiment / FINISHED) as stream:
            json.dump(wanted, stream, indent=1)
        checkpoints.remove_copy()


if __name__ == "__main__":
    run(main)
