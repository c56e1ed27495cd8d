"""torch.compile of an encoder, with the backend that changes no operator."""

from typing import Any

import pytest
import torch
from tiny_models import EXPERTS, SHARING, encoder, features, randomize


@pytest.mark.slow
def test_compiled_encoder_is_the_encoder(double_precision: None) -> None:
    sharing = [{**SHARING[0], "groups": 1}]
    model = randomize(encoder(experts=EXPERTS, sharing=sharing, num_blocks=2))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def run(called: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        model.zero_grad(set_to_none=True)
        y = called(*features())[0]
        y.square().sum().backward()
        return y.detach(), [parameter.grad for parameter in model.parameters()]

    expected = run(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):  # what is kept during one call must not be met in the next
        torch.testing.assert_close(run(compiled), expected)
