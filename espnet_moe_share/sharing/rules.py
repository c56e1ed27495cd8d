"""Sharing rules: which parameters of a layer are one and the same across which layers.

A rule is a mapping with the keys

``modules``
    Patterns over the paths of a layer's parameters and buffers, such as
    ``self_attn.linear_q.weight`` or ``conv_module.norm.running_mean``. ``*`` also matches dots. A
    pattern that names a module (``feed_forward``) covers everything below it.
``except``
    Patterns of what stays individual although ``modules`` matches it. Optional.
``groups``
    A number of equal groups, or the groups themselves as lists of layer numbers. Layers count from
    0, as in ``encoder.encoders.0``; a layer in no list shares nothing.
``order``
    For a number of groups: ``contiguous`` (0 0 0 1 1 1, the default) or ``cyclic`` (0 1 0 1 0 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from espnet_moe_share.checks import check_mapping, check_mapping_keys
from espnet_moe_share.errors import ConfigurationError

_KEYS = ("modules", "except", "groups", "order")
_REQUIRED = ("modules", "groups")
_ORDERS = ("contiguous", "cyclic")


@dataclass(frozen=True)
class SharingRule:
    """One checked rule; see the module's docstring.

    Attributes:
        name: What messages call it: ``sharing[0]``.
        modules: Patterns of the shared paths.
        exceptions: Patterns of the paths left individual.
        groups: Layers of each group, ascending.
    """

    name: str
    modules: tuple[str, ...]
    exceptions: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    def covers(self, path: str) -> bool:
        """Whether the rule shares this path of a layer."""
        return any(matches(pattern, path) for pattern in self.modules) and not any(
            matches(pattern, path) for pattern in self.exceptions
        )

    def select(self, paths: Sequence[str]) -> list[str]:
        """Return the paths that this rule shares, in the given order.

        Raises:
            ConfigurationError: A pattern of the rule matches none of the paths, or nothing is left.
        """
        for key, patterns in (("modules", self.modules), ("except", self.exceptions)):
            for pattern in patterns:
                if not any(matches(pattern, path) for path in paths):
                    parts = sorted({path.split(".")[0] for path in paths})
                    raise ConfigurationError(
                        f"{self.name}: '{pattern}' in '{key}' matches no parameter of an encoder "
                        f"layer, whose parts are {', '.join(parts)}"
                    )
        selected = [path for path in paths if self.covers(path)]
        if not selected:
            raise ConfigurationError(f"{self.name}: 'except' leaves nothing of 'modules' to share")
        return selected


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names the path or a module above it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern + ".*")


def _patterns(name: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(
            f"{name}: '{key}' must be a list of patterns such as [\"*\"], not {value!r}"
        )
    return tuple(value)


def _numbered_groups(name: str, groups: int, order: str, num_layers: int) -> list[list[int]]:
    if groups < 1 or num_layers % groups != 0:
        raise ConfigurationError(
            f"{name}: {groups} equal groups cannot be made of {num_layers} layers; "
            "give a divisor, or the groups as lists of layers"
        )
    if order == "cyclic":
        return [list(range(first, num_layers, groups)) for first in range(groups)]
    size = num_layers // groups
    return [list(range(first, first + size)) for first in range(0, num_layers, size)]


def _listed_groups(name: str, groups: list[Any], num_layers: int) -> list[list[int]]:
    if not all(isinstance(group, list) and group for group in groups):
        raise ConfigurationError(
            f"{name}: 'groups' must be a number or lists of layers such as [[0, 1], [2, 3]], "
            f"not {groups!r}"
        )
    layers = [layer for group in groups for layer in group]
    for layer in layers:
        if type(layer) is not int or not 0 <= layer < num_layers:
            raise ConfigurationError(
                f"{name}: there is no layer {layer!r}; layers are 0 to {num_layers - 1}"
            )
    if len(set(layers)) != len(layers):
        twice = next(layer for layer in layers if layers.count(layer) > 1)
        raise ConfigurationError(f"{name}: layer {twice} is listed twice in {groups!r}")
    return [sorted(group) for group in groups]


def parse_rule(name: str, rule: Mapping[str, Any], num_layers: int) -> SharingRule:
    """Check one rule of the YAML file.

    Args:
        name: What messages call it.
        rule: The mapping as read.
        num_layers: Number of encoder layers.

    Raises:
        ConfigurationError: Unknown or missing keys, or values that cannot be.
    """
    check_mapping(name, rule, f"with {', '.join(_KEYS)}")
    check_mapping_keys(name, rule, _KEYS, required=_REQUIRED)
    for key in _REQUIRED:
        if rule[key] == []:
            raise ConfigurationError(f"{name}: '{key}' is empty, so that nothing is shared")
    order = rule.get("order", "contiguous")
    if order not in _ORDERS:
        raise ConfigurationError(f"{name}: 'order' must be {' or '.join(_ORDERS)}, not {order!r}")
    groups = rule["groups"]
    if type(groups) is int:
        grouped = _numbered_groups(name, groups, order, num_layers)
    elif isinstance(groups, list) and "order" not in rule:
        grouped = _listed_groups(name, groups, num_layers)
    else:
        raise ConfigurationError(
            f"{name}: 'groups' must be a number of groups (with 'order' or not) or lists of layers "
            f"(without 'order'), not {groups!r}"
        )
    return SharingRule(
        name=name,
        modules=_patterns(name, "modules", rule["modules"]),
        exceptions=_patterns(name, "except", rule.get("except", [])),
        groups=tuple(tuple(group) for group in grouped),
    )


def parse_rules(rules: Sequence[Mapping[str, Any]], num_layers: int) -> list[SharingRule]:
    """Check all rules; messages call them ``sharing[0]``, ``sharing[1]`` and so on.

    Raises:
        ConfigurationError: Not a list, or a rule that cannot be.
    """
    if not isinstance(rules, list):
        raise ConfigurationError(f"sharing must be a list of rules, not {rules!r}")
    return [parse_rule(f"sharing[{i}]", rule, num_layers) for i, rule in enumerate(rules)]
