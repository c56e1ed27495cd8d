"""``load_state_dict(assign=True)`` untied shared layers without a word.

The model went on with twice the parameters, each copy trained by itself.
"""

from tiny_models import EXPERTS, SHARING, encoder, randomize


def test_shared_tensors_stay_shared() -> None:
    model = encoder(experts=EXPERTS, sharing=SHARING)
    before = sum(parameter.numel() for parameter in model.parameters())
    state = randomize(encoder(seed=1, experts=EXPERTS, sharing=SHARING)).state_dict()
    model.load_state_dict(state, assign=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == before
    weight = model.encoders[1].self_attn.linear_q.weight
    assert weight is model.encoders[0].self_attn.linear_q.weight
    assert (weight == state["encoders.0-1.self_attn.linear_q.weight"]).all()
