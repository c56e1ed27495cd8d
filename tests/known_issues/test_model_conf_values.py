"""Values of ``model_conf`` that cannot be were accepted, or ended in a traceback.

``.nan`` as a weight made every loss NaN, and ESPnet's trainer skips such steps; ``true`` was 1.
"""

from typing import Any

import pytest
from tiny_models import build, config

from espnet_moe_share.errors import ConfigurationError


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), True])
def test_weight(weight: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"balance_weight must be a number of 0 or more"):
        build(config(model_conf={"balance_weight": weight}))


def test_list_in_place_of_a_name() -> None:
    with pytest.raises(ConfigurationError, match=r"balance_scope must be .*, not \['layer'\]"):
        build(config(model_conf={"balance_scope": ["layer"]}))


@pytest.mark.parametrize("size", [0, -3, "8", 8.0, True])
def test_teacher_output_size(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="teacher_output_size must be a whole number"):
        build(config(model_conf={"distill_weight": 1.0, "teacher_output_size": size}))
