"""Strict loading through our task and through ESPnet's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from tiny_models import SHARING, TOKENS, build, config, dense_config, merge, save

from espnet_moe_share.errors import CheckpointMismatchError, ConfigurationError
from espnet_moe_share.task import ASRTask


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A student whose teacher has vanished."""
    gone = {"distill_weight": 0.1, "teacher_config": "gone.yaml", "teacher_model_file": "gone.pth"}
    settings = config(model_conf=gone)
    folder = tmp_path_factory.mktemp("student")
    paths = save(folder, settings, build(settings, seed=2))
    return {"config": paths["teacher_config"], "model": paths["teacher_model_file"]}


@pytest.mark.parametrize("task", [ASRTask, ESPnetASRTask])
def test_loads_without_the_teacher(task: Any, files: dict[str, str]) -> None:
    model, args = task.build_model_from_file(files["config"], files["model"])
    assert args.token_list == TOKENS
    state = torch.load(files["model"])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    first, second = (model.encoder.encoders[n].feed_forward.experts.w_1 for n in (0, 1))
    assert first is second


def test_configuration_beside_the_model_is_the_default(files: dict[str, str]) -> None:
    assert ASRTask.build_model_from_file(None, files["model"])[1].model == "moe_share"


@pytest.mark.parametrize("task", [ASRTask, ESPnetASRTask])
@pytest.mark.parametrize(
    "change",
    [
        {"sharing": [{**SHARING[0], "groups": 1}]},
        {"sharing": [{**SHARING[0], "order": "cyclic"}]},
        {"sharing": None},
        {"sharing": [{"modules": ["*"], "except": ["*norm*"], "groups": 2}], "experts": None},
        {"macaron_style": False},
        {"num_blocks": 6},
    ],
)
def test_other_architecture_is_refused(
    tmp_path: Path, files: dict[str, str], task: Any, change: dict[str, Any]
) -> None:
    settings = yaml.safe_load(Path(files["config"]).read_text())
    settings["encoder_conf"].update(change)
    other = tmp_path / "config.yaml"
    other.write_text(yaml.safe_dump(settings))
    with pytest.raises(CheckpointMismatchError, match=r"(needs|has) .*encoders") as refused:
        task.build_model_from_file(other, files["model"])
    assert "\n" not in str(refused.value)


def test_our_task_is_strict_about_espnets_models_too(tmp_path: Path) -> None:
    settings = dense_config()
    paths = save(tmp_path, settings, build(settings))
    larger = tmp_path / "larger.yaml"
    larger.write_text(yaml.safe_dump(merge(settings, {"encoder_conf": {"num_blocks": 5}})))
    ESPnetASRTask.build_model_from_file(larger, paths["teacher_model_file"])  # without a word
    with pytest.raises(CheckpointMismatchError, match=r"model\.pth: .*encoder\.encoders\.4\."):
        ASRTask.build_model_from_file(larger, paths["teacher_model_file"])


@pytest.mark.parametrize("wrapper", ["module", "state_dict"])
def test_checkpoints_of_deepspeed_and_lightning(
    tmp_path: Path, files: dict[str, str], wrapper: str
) -> None:
    state = torch.load(files["model"])
    torch.save({wrapper: state, "step": 3}, tmp_path / "wrapped.pth")
    ASRTask.build_model_from_file(files["config"], tmp_path / "wrapped.pth")
    del state["ctc.ctc_lo.bias"]
    torch.save({wrapper: state}, tmp_path / "wrapped.pth")
    with pytest.raises(CheckpointMismatchError, match=r"needs ctc\.ctc_lo\.bias"):
        ASRTask.build_model_from_file(files["config"], tmp_path / "wrapped.pth")


def test_missing_files(files: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: no such file"):
        ASRTask.build_model_from_file("nowhere.yaml", files["model"])
    with pytest.raises(ConfigurationError, match=r"nowhere\.pth: no such file"):
        ASRTask.build_model_from_file(files["config"], "nowhere.pth")


def test_checkpoint_holds_the_unique_parameters_only(files: dict[str, str]) -> None:
    """At this size names outweigh values, so tensors are counted, not bytes of the file."""
    model, _ = ASRTask.build_model_from_file(files["config"], files["model"])
    stored = sum(value.numel() for value in torch.load(files["model"]).values())
    unique = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(value.numel() for value in model.buffers())
    assert stored == unique + buffers - _not_saved(model)


def _not_saved(model: torch.nn.Module) -> int:
    return sum(
        module._buffers[name].numel()
        for module in model.modules()
        for name in module._non_persistent_buffers_set
    )


def test_average_of_epochs_by_espnet_loads(tmp_path: Path) -> None:
    from espnet2.main_funcs.average_nbest_models import average_nbest_models
    from espnet2.train.reporter import Reporter

    settings = config()
    reporter = Reporter()
    for epoch in (1, 2):
        model = build(settings, seed=epoch)
        save(tmp_path, settings, model)
        (tmp_path / "model.pth").rename(tmp_path / f"{epoch}epoch.pth")
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"acc": torch.tensor([0.5])}, torch.tensor([1.0]))
            sub.next()
    average_nbest_models(tmp_path, reporter, [["valid", "acc", "max"]], 2)
    average, _ = ASRTask.build_model_from_file(
        tmp_path / "config.yaml", tmp_path / "valid.acc.ave.pth"
    )
    name = "encoder.encoders.1.feed_forward.experts.w_1"
    expected = (
        sum(
            dict(build(settings, seed=n).encoder.encoders[1].named_parameters())[
                "feed_forward.experts.w_1"
            ].detach()
            for n in (1, 2)
        )
        / 2
    )
    torch.testing.assert_close(average.get_parameter(name).detach(), expected)
    size = (tmp_path / "valid.acc.ave.pth").stat().st_size
    assert size < 1.1 * (tmp_path / "1epoch.pth").stat().st_size
