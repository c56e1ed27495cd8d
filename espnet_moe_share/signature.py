"""Signatures for subclasses that add keyword arguments to an ESPnet class."""

import inspect


def extend_signature[T: type](cls: T) -> T:
    """Give a class whose ``__init__`` ends in ``**kwargs`` the arguments of its last base by name.

    ESPnet reads a class's arguments from its signature (``get_default_kwargs``), so that
    ``--print_config`` and config.yaml would not show what ``**kwargs`` hides. Taking them from
    the base class keeps every argument of ESPnet's, later ones included, without a copy.
    """
    base = inspect.signature(cls.__bases__[-1])
    own = [
        parameter
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    cls.added_arguments = tuple(parameter.name for parameter in own)  # type: ignore[attr-defined]
    # an argument of both is ours, which hands it on
    of_base = [p for name, p in base.parameters.items() if name not in cls.added_arguments]  # type: ignore[attr-defined]
    cls.__signature__ = base.replace(parameters=[*of_base, *own])  # type: ignore[attr-defined]
    return cls


def added_arguments(cls: type) -> tuple[str, ...]:
    """Names of the arguments that a class of ours adds to ESPnet's; none for ESPnet's own."""
    return getattr(cls, "added_arguments", ())
