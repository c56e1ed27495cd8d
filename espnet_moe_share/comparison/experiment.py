"""What an experiment's directory says of its model: options, parameters, files."""

import contextlib
import functools
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.files import whole_file


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, each shared one counted once."""

    encoder_layer_params: int
    encoder_params: int
    total_params: int


def model_file(experiment: Path, model: str) -> Path:
    """Path of an experiment's model.

    Raises:
        ConfigurationError: There is none.
    """
    file = experiment / model
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such model; is it trained (stage 11)?")
    return file


def count_parameters(experiment: Path, model: str) -> Parameters:
    """Count the parameters of a trained model; the count is kept beside it.

    Args:
        experiment: Directory with config.yaml. What that names (statistics) must be found from the
            current directory, which is the recipe's.
        model: File name of the model in it.

    Raises:
        ConfigurationError: A file is missing.
        CheckpointMismatchError: The model does not fit its configuration.
    """
    file = model_file(experiment, model)
    status = file.stat()
    identity = [status.st_size, status.st_mtime_ns]
    cache = experiment / ".parameters.json"
    # Whatever cannot be read is counted anew.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["model"] == identity:
            return Parameters(**kept["parameters"])

    # ESPnet says on stderr that optional packages are missing; errors are exceptions.
    with contextlib.redirect_stderr(io.StringIO()):
        from espnet_moe_share.parameters import count_parameters as count
        from espnet_moe_share.task import ASRTask

        built, _ = ASRTask.build_model_from_file(experiment / "config.yaml", file, "cpu")
    counts = count(built)
    parameters = Parameters(**{name: int(counts[name]) for name in Parameters.__annotations__})
    # The experiment may be somebody else's, or on a disk that is only to be read.
    with contextlib.suppress(OSError), whole_file(cache) as temporary:
        temporary.write_text(json.dumps({"model": identity, "parameters": asdict(parameters)}))
    return parameters


@functools.cache
def training_options(experiment: Path) -> dict[str, object]:
    """The experiment's config.yaml, as ESPnet wrote it when training began.

    Raises:
        ConfigurationError: It is missing, no YAML, or no mapping.
    """
    path = experiment / "config.yaml"
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; is the model trained (stage 11)?")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        options = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise ConfigurationError(f"{path}: the config.yaml of a training is needed")
    return options
