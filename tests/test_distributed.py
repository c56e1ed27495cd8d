"""The same batches in one, two and four processes (gloo), trained by ESPnet's own trainer.

In float64, so that "the same up to rounding" means something. Batch norms are frozen: in training
each process normalises by its own part of the batch, in ESPnet as here. The four longest utterances
are of one length, so that no process cuts its part of the batch shorter than the others: ESPnet's
STFT and subsampling see where a batch ends.
"""

import datetime
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import EMBEDDING_NETWORK, batch, build, config, merge, randomize

from espnet_moe_share.experts.router import TopKRouter

pytestmark = pytest.mark.slow

# Every process of a test is forked from one that has imported ESPnet already.
PRELOAD = ["espnet2.tasks.asr", "espnet3.systems.esp2_asr.task", "espnet_moe_share.task"]

# 9 utterances: processes have unequal numbers of them, and of frames. With 16 experts most stay
# idle in a process that has 20 frames.
LENGTHS = (9000, 9000, 9000, 9000, 7000, 6000, 8500, 6500, 8000)
STEPS = 2
WORLDS = (1, 2, 4)
COMPARED = ("layer", "pool")  # the scenarios that every number of processes runs


DROPOUTS = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}


def settings_of(teacher: dict[str, str], **changes: Any) -> dict[str, Any]:
    """A student that draws no random numbers in training."""
    weights = {"balance_weight": 0.5, "router_z_weight": 0.1, "distill_weight": 0.5}
    weights |= {"sparsity_weight": 0.1, "importance_weight": 0.1}
    # ESPnet computes CTC in float32 whatever the model's dtype is
    weights["ctc_weight"] = 0.0
    settings = config(
        encoder_conf={**DROPOUTS, "experts": {"num_experts": 16}},
        decoder_conf={**DROPOUTS},
        model_conf={**weights, **teacher},
    )
    return merge(settings, changes)


def scenarios(teacher: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {
        "layer": settings_of(teacher, encoder_conf={"experts": {"bias_update_rate": 0.0625}}),
        "pool": settings_of(
            teacher,
            model_conf={"balance_scope": "pool", "ctc_weight": 0.5, "embedding_ctc_weight": 0.1},
            encoder_conf={
                "embedding_network": {**EMBEDDING_NETWORK, **DROPOUTS},
                "experts": {
                    "num_experts": 16,
                    "top_k": 2,
                    "modules": ["feed_forward", "feed_forward_macaron"],
                },
            },
        ),
        "local": settings_of(teacher, model_conf={"batch_scope": "local"}),
        "stochastic_depth": settings_of(
            teacher,
            encoder_conf={
                "stochastic_depth_rate": [0.5, 0.5, 0.5, 0.5],
                "experts": {"bias_update_rate": 0.0625},
            },
        ),
    }


def part_of(number: int, rank: int, world: int) -> dict[str, Any]:
    """What ESPnet gives to one process of a batch: every world-th utterance."""
    return {name: value[rank::world] for name, value in batch(number, lengths=LENGTHS).items()}


def freeze_batch_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def figures(reporter: Any, key: str) -> dict[str, float]:
    """What ESPnet logs of losses and routing."""
    names = [n for n in reporter.get_keys2(key) if n.startswith(("loss", "layer"))]
    return {name: float(reporter.get_value(key, name)) for name in names}


class Process:
    """One process of a training.

    Attributes:
        rank: Number of the process, 0 for the first.
        world: Number of processes; 1 runs without torch.distributed.
    """

    def __init__(self, rank: int, world: int) -> None:
        from espnet2.train.distributed_utils import DistributedOption
        from espnet2.train.trainer import Trainer

        from espnet_moe_share.task import ASRTask

        self.rank, self.world = rank, world
        self.option = DistributedOption(distributed=world > 1, dist_rank=rank)
        self.trainer = Trainer
        arguments = ["--output_dir", "unused", "--ngpu", "0", "--grad_clip", "1e9"]
        self.options = Trainer.build_options(ASRTask.get_parser().parse_args(arguments))

    def batches(self, numbers: range) -> list[tuple[list[str], dict[str, Any]]]:
        parts = [part_of(number, self.rank, self.world) for number in numbers]
        return [([f"utt{row}" for row in range(len(part["text"]))], part) for part in parts]

    def run(self, settings: dict[str, Any], unused_parameters: bool = False) -> dict[str, Any]:
        """Train, validate and plot attention as ESPnet does in an epoch."""
        from espnet2.main_funcs.calculate_all_attentions import calculate_all_attentions
        from espnet2.train.reporter import Reporter

        # other initial weights in each process: those of the first must win
        model = randomize(build(settings, seed=self.rank)).to(torch.float64)
        freeze_batch_norms(model)
        parallel = model
        if self.world > 1:
            parallel = torch.nn.parallel.DistributedDataParallel(
                model, find_unused_parameters=unused_parameters
            )
        choices: list[tuple[str, torch.Tensor]] = []
        for path, module in model.named_modules():
            if isinstance(module, TopKRouter):
                module.register_forward_hook(
                    lambda router, _, routed, path=path: choices.append(
                        (path, routed[2].flatten().bincount(minlength=len(router.weight)))
                    )
                )
        gradients: list[dict[str, torch.Tensor]] = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        optimizer.register_step_pre_hook(
            lambda *_: gradients.append(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )
        )
        reporter = Reporter(1)
        with reporter.observe("train") as observed:
            self.trainer.train_one_epoch(
                model=parallel,
                # the first process has fewer than the others, as at the end of an epoch
                iterator=self.batches(range(STEPS + (self.rank > 0))),
                optimizers=[optimizer],
                schedulers=[None],
                scaler=None,
                reporter=observed,
                summary_writer=None,
                options=self.options,
                distributed_option=self.option,
            )
        first_step = choices[: len(choices) // len(gradients)]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        with reporter.observe("valid") as observed:
            self.trainer.validate_one_epoch(
                model=parallel,
                iterator=self.batches(range(1 + self.rank % 2)),
                reporter=observed,
                options=self.options,
                distributed_option=self.option,
            )
        if self.rank == 0:
            # ESPnet plots attention in the first process only; the others are here already
            attention = calculate_all_attentions(model.eval(), part_of(9, 0, 1))
            assert attention
        if self.world > 1:
            torch.distributed.barrier()
        return {
            "gradients": gradients,
            "train": figures(reporter, "train"),
            "valid": figures(reporter, "valid"),
            "state": state,
            "teacher": model.teacher.model.state_dict(),
            "choices": first_step,
        }


def work(rank: int, world: int, folder: str) -> None:
    """What each process does; saves its results."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    teacher = yaml.safe_load((Path(folder) / "teacher.yaml").read_text())
    if world > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous{world}",
            world_size=world,
            rank=rank,
            # processes that wait for each other for ever fail instead
            timeout=datetime.timedelta(seconds=120),
        )
    process = Process(rank, world)
    results = {}
    for name, settings in scenarios(teacher).items():
        if world == 2 or name in COMPARED:
            results[name] = process.run(settings, unused_parameters=name == "stochastic_depth")
    torch.save(results, Path(folder) / f"{world}_{rank}.pth")
    if world > 1:
        torch.distributed.destroy_process_group()


Results = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(teacher: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Number of processes -> results of each."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    multiprocessing.set_forkserver_preload(PRELOAD)
    for world in WORLDS:
        torch.multiprocessing.start_processes(
            work, args=(world, str(folder)), nprocs=world, start_method="forkserver"
        )
    return {
        world: [torch.load(folder / f"{world}_{rank}.pth") for rank in range(world)]
        for world in WORLDS
    }


def assert_same(
    values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rounding: float = 1e-10
) -> None:
    assert values.keys() == expected.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name], rtol=rounding, atol=rounding, msg=name)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("scenario", "rounding"), [("layer", 1e-10), ("pool", 1e-6)])
def test_gradients_are_those_of_one_process(
    results: Results, scenario: str, rounding: float, world: int
) -> None:
    one = results[1][0][scenario]
    assert len(one["gradients"]) == STEPS
    for process in results[world]:
        # the processes with more batches stopped with the first
        assert len(process[scenario]["gradients"]) == STEPS
        for gradients, expected in zip(process[scenario]["gradients"], one["gradients"]):
            assert_same(gradients, expected, rounding)
        assert_same(process[scenario]["state"], one["state"], rounding)


def test_biases_follow_the_load_of_all_processes(results: Results) -> None:
    """DDP does not broadcast them; that they are those of one process is tested above."""
    for world in WORLDS:
        state = results[world][-1]["layer"]["state"]
        biases = [value for name, value in state.items() if name.endswith("expert_bias.bias")]
        assert len(biases) == 4
        assert all(bias.abs().sum() > 0 for bias in biases)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("scenario", ["layer", "pool"])
def test_losses_and_loads_are_those_of_one_process(
    results: Results, scenario: str, world: int
) -> None:
    one = results[1][0][scenario]["train"]
    wanted = {"loss", "loss_att", "loss_balance", "loss_router_z", "loss_distill"}
    assert wanted | {"loss_balance_weighted", "layer3_feed_forward_dead_experts"} <= set(one)
    for process in results[world]:
        assert process[scenario]["train"] == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize("world", [2, 4])
def test_some_experts_get_frames_in_one_process_only(results: Results, world: int) -> None:
    """Else the tests above would not show that these are right, too."""
    processes = [dict(process["layer"]["choices"]) for process in results[world]]
    whole = dict(results[1][0]["layer"]["choices"])
    assert len(whole) == 4
    idle_somewhere = 0
    for path, choices_E in whole.items():
        parts = torch.stack([process[path] for process in processes])
        assert torch.equal(parts.sum(dim=0), choices_E)
        idle_somewhere += int(((parts == 0).any(dim=0) & (choices_E > 0)).sum())
    assert idle_somewhere >= 4


def test_local_scope_is_the_mean_over_processes(
    results: Results, teacher: dict[str, str], double_precision: None
) -> None:
    """Each process's own losses, weighted by its utterances as ESPnet's trainer does."""
    model = randomize(build(settings_of(teacher), seed=0)).to(torch.float64)
    freeze_batch_norms(model)
    model.train()
    for rank in range(2):
        loss, _, utterances = model(**part_of(0, rank, 2))
        (loss * utterances / len(LENGTHS)).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for process in results[2]:
        assert_same(process["local"]["gradients"][0], expected)
    router = "encoder.encoders.0.feed_forward.router.weight"
    of_the_whole = results[1][0]["layer"]["gradients"][0][router]
    assert not torch.allclose(expected[router], of_the_whole, rtol=1e-3)


def test_layers_that_only_some_processes_run(results: Results) -> None:
    """Stochastic depth: every process draws for itself, and none may wait for the others."""
    first, second = (process["stochastic_depth"] for process in results[2])
    ran = [{path for path, _ in process["choices"]} for process in (first, second)]
    assert ran[0] != ran[1]
    assert_same(first["state"], second["state"])
    assert all(value.isfinite().all() for value in first["state"].values())
    assert all(math.isfinite(first["train"][f"loss_{t}"]) for t in ("balance", "router_z"))


def test_validation_and_attention_plots_end(results: Results) -> None:
    """One process has a batch less, and plots alone afterwards."""
    for world in WORLDS:
        for process in results[world]:
            assert math.isfinite(process["layer"]["valid"]["loss_balance"])


@pytest.mark.parametrize("world", [2, 4])
def test_every_process_has_the_teacher(
    results: Results, teacher: dict[str, str], world: int
) -> None:
    file = torch.load(teacher["teacher_model_file"])
    expected = {name: value.to(torch.float64) for name, value in file.items()}
    for process in results[world]:
        state = {
            name: value.to(torch.float64) for name, value in process["layer"]["teacher"].items()
        }
        assert_same(state, expected)
