"""Errors that a user can mend: their text says what was found, where, and what would be right."""


class ConfigurationError(ValueError):
    """A YAML or command-line setting that cannot work."""


class CheckpointMismatchError(ValueError):
    """A checkpoint whose tensors are not those of the model that the configuration describes.

    Not a RuntimeError: ``AbsTask.build_model_from_file`` catches those and tries again.
    """
