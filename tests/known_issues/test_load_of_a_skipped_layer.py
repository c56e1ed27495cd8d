"""A layer skipped by stochastic depth was left out of the statistics.

Every process of a distributed training draws for itself, and ESPnet gathers the statistics of all
processes one after the other: another set of names in one process mixes up or hangs all of them.
ESPnet leaves NaN out of its averages.
"""

import torch
from tiny_models import batch, build, config


def test_names_do_not_depend_on_what_was_skipped() -> None:
    model = build(
        config(
            encoder_conf={"stochastic_depth_rate": [0.0, 0.999, 0.999, 0.999]},
            model_conf={"balance_weight": 0.1, "router_z_weight": 0.1},
        )
    )
    torch.manual_seed(0)
    skipping = model.train()(**batch())[1]
    whole = model.eval()(**batch())[1]
    assert [n for n, v in skipping.items() if v is not None] == [
        n for n, v in whole.items() if v is not None and n not in ("cer", "cer_ctc", "wer")
    ]
    assert skipping["layer0_feed_forward_dead_experts"].isfinite()
    assert skipping["layer2_feed_forward_dead_experts"].isnan()
    assert skipping["loss"].isfinite()


def test_all_layers_skipped() -> None:
    model = build(
        config(
            encoder_conf={"stochastic_depth_rate": 0.999},
            model_conf={"balance_weight": 0.1, "router_z_weight": 0.1},
        )
    )
    torch.manual_seed(0)
    loss, stats, _ = model.train()(**batch())
    assert stats["loss_balance"] == stats["loss_router_z"] == 0
    assert torch.equal(loss.detach(), stats["loss"])
    espnets = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_att"]
    torch.testing.assert_close(stats["loss"], espnets)
