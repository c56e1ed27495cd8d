"""Every system of conf/, its experts, factors and rules on a tiny model: from training to text."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import EMBEDDING_NETWORK, batch, build, encoder_config, save

from espnet_moe_share.inference import Speech2Text

CONF = Path(__file__).resolve().parents[1] / "conf"
SYSTEMS = [
    *("moe_share_conformer", "speechmoe", "switch", "switch_transformer"),
    *("omni_router", "omni_router_transformer"),
    *(f"low_rank_share_{level}_conformer" for level in ("blocks", "modules", "parts", "factors")),
    "low_rank_share_librispeech",
]
# The embedding network hangs on the input layer, of which every encoder has its own.
CASES = [
    *((system, None) for system in SYSTEMS),
    *(("speechmoe", f"moe_share_{name}") for name in ("transformer", "e_branchformer")),
]


def tiny(system: str, encoder: str | None) -> dict[str, Any]:
    """The system's encoder (or another), knobs, depth and losses; the rest tiny, no teacher."""
    written = yaml.safe_load((CONF / f"train_{system}.yaml").read_text())
    conf = written["encoder_conf"]
    knobs = {key: conf.get(key) for key in ("num_blocks", "experts", "low_rank", "sharing")}
    knobs = copy.deepcopy(knobs)
    for part in knobs["low_rank"] or []:
        part["rank"] = 3
    if "embedding_network" in conf:
        knobs["embedding_network"] = EMBEDDING_NETWORK
    weights = {
        key: value for key, value in written["model_conf"].items() if key != "distill_weight"
    }
    return encoder_config(encoder or written["encoder"], encoder_conf=knobs, model_conf=weights)


def step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> torch.Tensor:
    """One training step from a given random state; returns its loss."""
    model.train()
    torch.manual_seed(seed)
    loss: torch.Tensor = model(**batch(seed=seed))[0]
    model.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize(("system", "encoder"), CASES)
def test_train_two_steps_save_resume_and_decode(
    tmp_path: Path, system: str, encoder: str | None
) -> None:
    settings = tiny(system, encoder)
    model = build(settings)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for seed in (3, 4):
        step(model, optimizer, seed)
    for (name, parameter), start in zip(model.named_parameters(), before):
        assert not torch.equal(parameter, start), name
    files = save(tmp_path, settings, model)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pth")

    resumed = build(settings, seed=9)
    resumed.load_state_dict(torch.load(files["teacher_model_file"]))
    again = torch.optim.Adam(resumed.parameters(), lr=0.01)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pth"))
    for seed in (5, 6):
        assert torch.equal(step(resumed, again, seed), step(model, optimizer, seed))

    files = save(tmp_path, settings, resumed)
    search = Speech2Text(*files.values(), beam_size=2, maxlenratio=0.2)
    assert search(np.random.default_rng(0).normal(size=9000).astype(np.float32))
