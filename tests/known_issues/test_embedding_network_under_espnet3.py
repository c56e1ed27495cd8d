"""ESPnet3 left an embedding network untrained without a word, which is refused under ESPnet2."""

import pytest
from tiny_models import batch, build, speechmoe_config

from espnet_moe_share.errors import ConfigurationError


def test_refused_in_the_first_step_of_a_model_that_nobody_calls_train_of() -> None:
    model = build(speechmoe_config(model_conf={"embedding_ctc_weight": 0.0}))
    assert model.training  # Lightning, and so ESPnet3, leaves it in this mode
    with pytest.raises(ConfigurationError, match="embedding_network would learn from nothing"):
        model(**batch())
