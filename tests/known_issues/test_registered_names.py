"""``register_encoder("Conformer", ...)`` put another class in the place of ESPnet's own."""

from typing import Any

import pytest
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.tasks.asr import encoder_choices

from espnet_moe_share.encoder.conformer import MoeShareConformerEncoder
from espnet_moe_share.errors import ConfigurationError
from espnet_moe_share.registry import register_encoder, register_router


def test_upper_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_choices, "classes", dict(encoder_choices.classes))
    with pytest.raises(ConfigurationError, match="encoder 'Conformer': ESPnet finds names in low"):
        register_encoder("Conformer", MoeShareConformerEncoder)
    assert encoder_choices.classes["conformer"] is ConformerEncoder


@pytest.mark.parametrize("what", [lambda: None, "linear"])
def test_router_that_is_no_class(what: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a subclass of .*TopKRouter"):
        register_router("none", what)
