"""A rule without effect was accepted: the student then was several times too large."""

from typing import Any

import pytest
from tiny_models import encoder

from espnet_moe_share.errors import ConfigurationError


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"modules": [], "groups": 2}, "'modules' is empty"),
        ({"modules": ["*"], "groups": []}, "'groups' is empty"),
        ({"modules": ["norm_ff"], "except": ["norm*"], "groups": 2}, "'except' leaves nothing"),
    ],
)
def test_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"sharing\[0\]: {message}"):
        encoder(sharing=[rule])
