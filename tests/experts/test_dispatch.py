"""The same ways of the frames, whether they are sorted by lines of Python or by torch."""

from collections.abc import Callable

import pytest
import torch

from espnet_moe_share.experts import dispatch
from espnet_moe_share.experts.dispatch import Choices, plan_dispatch
from espnet_moe_share.experts.expert_rows import ExpertRows, batched_rows, own_rows, rounded_rows
from espnet_moe_share.experts.frames import find_frames


@pytest.mark.parametrize("lay_out", [own_rows, rounded_rows, batched_rows])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("lengths", [[9, 9], [9, 4], [0, 5], [0, 1]])
def test_both_are_one(
    lay_out: Callable[[list[int]], ExpertRows],
    top_k: int,
    lengths: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    num_frames, num_experts = sum(lengths), 5
    frames = find_frames(torch.arange(9) < torch.tensor(lengths).unsqueeze(1))
    # the last expert gets none
    expert_ids = torch.rand(num_frames, num_experts - 1).topk(top_k).indices
    choices = Choices(expert_ids, torch.rand(num_frames, top_k), num_experts, None, frames)
    plans = []
    for few in (0, 1000):
        monkeypatch.setattr(dispatch, "FEW_CHOICES", few)
        plans.append(plan_dispatch(choices, lay_out))
    sorted_by_torch, sorted_by_lists = plans
    assert torch.equal(sorted_by_torch.places_P, sorted_by_lists.places_P)
    assert torch.equal(sorted_by_torch.back_RK, sorted_by_lists.back_RK)
    assert (sorted_by_torch.missing is None) == (sorted_by_lists.missing is None)
    if sorted_by_torch.missing is not None:
        assert torch.equal(sorted_by_torch.missing, sorted_by_lists.missing)
    # a place's row is read from that place, and lies in a window of its expert
    rows = sorted_by_lists.rows
    assert rows is not None
    chosen = torch.full((18, top_k), -1)
    chosen[(torch.arange(9) < torch.tensor(lengths).unsqueeze(1)).flatten()] = expert_ids
    for place, expert in enumerate(chosen.flatten().tolist()):
        row = int(sorted_by_lists.back_RK[place])
        if expert < 0:
            assert row == 0
            continue
        assert int(sorted_by_lists.places_P[row]) == place
        window = rows.windows[expert]
        own = window.row + window.begin - window.first
        assert own <= row < own + window.end - window.begin
