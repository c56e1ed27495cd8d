"""Optional keys of ``experts``, all off by default: balancing, capacity, regularisation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from espnet_moe_share.checks import is_number
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.experts.router import ROUTERS


@dataclass(frozen=True)
class ExpertOptions:
    """Checked options of all expert layers.

    Attributes:
        dropout_rate: Dropout inside the experts; None: that of the feed-forward replaced (expert
            dropout, Fedus et al. 2022, Switch Transformers, section 2.4).
        capacity_factor: An expert takes at most this times its even share of the frames in a
            training step (:mod:`espnet_moe_share.experts.capacity`); None: no limit.
        jitter: In training the router's input is multiplied by a factor from [1 - jitter,
            1 + jitter], drawn for every element (Switch Transformers, section 2.4); 0: not.
        bias_update_rate: Step u of loss-free balancing
            (:mod:`espnet_moe_share.experts.expert_bias`); 0: no bias.
        router: Name of the router's class in :data:`espnet_moe_share.experts.router.ROUTERS`.
    """

    dropout_rate: float | None = None
    capacity_factor: float | None = None
    jitter: float = 0.0
    bias_update_rate: float = 0.0
    router: str = "linear"


OPTION_KEYS = tuple(field.name for field in fields(ExpertOptions))


def _check(key: str, value: Any, wanted: str, allowed: bool) -> None:
    if allowed:
        return
    hint = " (YAML reads 1e-3 as text; write 1.0e-3)" if isinstance(value, str) else ""
    raise ConfigurationError(f"experts: '{key}' must be {wanted}, not {value!r}{hint}")


def parse_options(experts: Mapping[str, Any], num_experts: int, top_k: int) -> ExpertOptions:
    """Check the optional keys of ``experts``.

    Args:
        experts: The mapping as read; other keys in it are ignored.
        num_experts: E.
        top_k: K.

    Raises:
        ConfigurationError: A value that cannot be, or an option that could have no effect.
    """
    options = ExpertOptions(**{key: experts[key] for key in OPTION_KEYS if key in experts})
    for key in ("dropout_rate", "jitter", "bias_update_rate"):
        value = getattr(options, key)
        default = key == "dropout_rate" and value is None
        wanted = "a number of 0 or more and below 1"
        _check(key, value, wanted, default or (is_number(value) and 0 <= value < 1))
    factor = options.capacity_factor
    wanted = "a number above 0, or null for no limit"
    _check("capacity_factor", factor, wanted, factor is None or (is_number(factor) and factor > 0))
    if not isinstance(options.router, str) or options.router not in ROUTERS:
        raise ConfigurationError(
            f"experts: 'router' must be {' or '.join(ROUTERS)}, not {options.router!r}; a router "
            "of a plug-in is there when the plug-in is installed (docs/extending.md)"
        )
    if options.bias_update_rate > 0 and top_k == num_experts:
        raise ConfigurationError(
            f"experts: 'bias_update_rate' excludes top_k = num_experts ({num_experts}): the bias "
            "changes which experts are chosen, and every frame has all of them"
        )
    return options
