"""All figures of one system: of its model, and of each set that it has decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_moe_share.comparison.experiment import (
    Parameters,
    count_parameters,
    model_file,
    training_options,
)
from espnet_moe_share.comparison.sclite import SCORES, Errors, read_errors, result_files, total
from espnet_moe_share.comparison.times import (
    DecodingTime,
    TrainingTime,
    decoding_time,
    training_time,
)
from espnet_moe_share.errors import ConfigurationError


@dataclass(frozen=True)
class DecodedSet:
    """What came out of one decoding of one set.

    Attributes:
        results: ``cer``, ``wer``, ``ter`` -> sclite's result.txt, as far as they were scored.
        errors: The same -> utterance -> errors.
        time: None where the logs do not say it.
    """

    results: dict[str, Path]
    errors: dict[str, dict[str, Errors]]
    time: DecodingTime | None

    def total(self, score: str) -> Errors | None:
        """Errors of the whole set; None if it was not scored so."""
        return total(self.errors[score]) if score in self.errors else None


@dataclass(frozen=True)
class System:
    """One experiment with the model that was decoded.

    Attributes:
        name: In tables and figures.
        experiment: Its directory.
        model: File name of the model in it.
        model_bytes: Size of that file.
        parameters: Of the model.
        training: None where no log tells of it.
        sets: ``<decode tag>/<set>`` -> what came out.
    """

    name: str
    experiment: Path
    model: str
    model_bytes: int
    parameters: Parameters
    training: TrainingTime | None
    sets: dict[str, DecodedSet]

    @property
    def real_time_factor(self) -> float | None:
        """Over all its sets; None where the logs of one do not say it."""
        times = [decoded.time for decoded in self.sets.values()]
        known = [time for time in times if time is not None]
        if not known or len(known) < len(times):
            return None
        return sum(time.wall for time in known) / sum(time.audio for time in known)


def read_system(name: str, experiment: Path, model: str) -> System:
    """Collect the figures of one experiment.

    Raises:
        ConfigurationError: A file is missing or wrong, or nothing has been scored.
        CheckpointMismatchError: The model does not fit its configuration.
    """
    if not experiment.is_dir():
        raise ConfigurationError(f"{experiment}: no such experiment; a directory is needed")
    options = training_options(experiment)
    file = model_file(experiment, model)
    results: dict[str, dict[str, Path]] = {}
    for score in SCORES:
        for decoded, result in result_files(experiment, model, score).items():
            results.setdefault(decoded, {})[score] = result
    if not results:
        raise ConfigurationError(
            f"{experiment}: nothing scored with {model} as it is now; run stages 12 and 13"
        )
    rate = _sampling_rate(options)
    sets = {
        decoded: DecodedSet(
            files,
            {score: read_errors(result) for score, result in files.items()},
            decoding_time(experiment / decoded, rate),
        )
        for decoded, files in results.items()
    }
    parameters = count_parameters(experiment, model)
    size = file.stat().st_size
    return System(name, experiment, model, size, parameters, training_time(experiment), sets)


def _sampling_rate(options: dict[str, object]) -> float:
    """Of the speech, in Hz, as ESPnet's frontend takes it: a number, or such as `16k`."""
    import humanfriendly  # of ESPnet, which reads it with the same

    conf = options.get("frontend_conf")
    rate = conf.get("fs", 16000) if isinstance(conf, dict) else 16000
    return float(humanfriendly.parse_size(rate) if isinstance(rate, str) else rate)


def set_labels(systems: Sequence[System]) -> list[dict[str, str]]:
    """Name the decoded sets so that those which belong together have one name.

    Returns:
        For each system, name -> key in its ``sets``. The name is that of the set alone, unless a
        system has decoded one with several tags; then all have their tag.
    """
    short = [[_set_name(key) for key in system.sets] for system in systems]
    if any(len(set(names)) < len(names) for names in short):
        return [{key: key for key in system.sets} for system in systems]
    return [dict(zip(names, system.sets)) for names, system in zip(short, systems)]


def _set_name(decoded: str) -> str:
    return decoded.partition("/")[2] or decoded


def unique_names(experiments: Sequence[Path]) -> list[str]:
    """Names of directories without ``asr_``; whole paths where two would be the same.

    Raises:
        ConfigurationError: A directory is given twice.
    """
    resolved = [experiment.resolve() for experiment in experiments]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise ConfigurationError(f"{experiments[number]}: given twice")
    names = [path.name.removeprefix("asr_") for path in resolved]
    return names if len(set(names)) == len(names) else [str(path) for path in experiments]
