"""``experts`` and ``sharing`` of another type than expected ended in a Python TypeError.

``sharing`` that was empty, but no list, was taken for none. An embedding network that ESPnet cannot
build ended in a RuntimeError of torch.
"""

from typing import Any

import pytest
from tiny_models import EXPERTS, encoder

from espnet_moe_share.errors import ConfigurationError


@pytest.mark.parametrize("experts", [4, "4", [4], True])
def test_experts(experts: Any) -> None:
    with pytest.raises(ConfigurationError, match="experts must be a mapping with num_experts"):
        encoder(experts=experts)


@pytest.mark.parametrize("modules", [[["feed_forward"]], [{"feed_forward": 1}], [None]])
def test_modules_of_experts(modules: Any) -> None:
    with pytest.raises(ConfigurationError, match="'modules' must be a list such as"):
        encoder(experts={"num_experts": 2, "modules": modules})


@pytest.mark.parametrize("sharing", [2, "all", {"modules": ["*"], "groups": 2}, True, {}, 0])
def test_sharing(sharing: Any) -> None:
    with pytest.raises(ConfigurationError, match="sharing must be a list of rules"):
        encoder(sharing=sharing)


def test_embedding_network_of_an_odd_width() -> None:
    network = {"output_size": 7, "attention_heads": 1}
    with pytest.raises(ConfigurationError, match=r"embedding_network: .* cannot be built from"):
        encoder(experts=EXPERTS, embedding_network=network)
