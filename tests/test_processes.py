"""Two processes leave the record of one that was fed the same presentations, and fail together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import forked
import two_processes
from dynalens import AttributionMonitor, SampleStatistics, TrainingDynamics, TrainingDynamicsMonitor, load_record
from dynalens.host import Processes
from test_dynamics import assert_same
from training import Classifier, dataset, fit, loader
from two_processes import FAILURES, LOADERS, WITH_PROBABILITIES, N

Seen = list[tuple[int, list[int], torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave; a checkpoint of one process is there for them to resume."""
    folder = tmp_path_factory.mktemp("two")
    saver = ModelCheckpoint(folder / "alone", save_top_k=-1, filename="{step}", every_n_train_steps=4)
    model = fit(folder / "one", TrainingDynamicsMonitor(), saver, data=LOADERS["shuffle"], enable_checkpointing=True)
    torch.save(model.seen[:4], folder / "alone" / "seen.pt")
    forked.run(folder, two_processes.main)
    return folder


def left(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=True) for rank in range(2)]


def fed(dynamics: TrainingDynamics, seen: list[Seen], first_epoch: int = 0) -> TrainingDynamics:
    """Feed one process what several saw, ordered by step, then rank."""
    for epoch in range(first_epoch, 1 + max(entry[0] for entry in seen[0])):
        ranks = [[entry for entry in rank if entry[0] == epoch] for rank in seen]
        for step in range(max(map(len, ranks))):
            for rank in ranks:
                for _, index, logits, y in rank[step : step + 1]:
                    dynamics.update(index, logits, y)
        dynamics.end_epoch(epoch)
    return dynamics


def statistics(one: dict[str, Any]) -> SampleStatistics:
    return SampleStatistics(**{key: value.numpy() for key, value in one["statistics"].items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LOADERS, "explained"])
def test_each_process_has_the_record_of_all_and_weights_stay_bit_identical(folder: Path, name: str) -> None:
    ranks = left(folder, name)
    dynamics = TrainingDynamics(N, mean_probabilities=name in WITH_PROBABILITIES)
    expected = fed(dynamics, [rank["seen"] for rank in ranks]).compute()
    assert expected.presentations.sum() == 2 * (N + 1)  # two epochs, each with one sample as padding
    for rank in ranks:
        assert_same(statistics(rank), expected)
        assert rank["attrs"] | {"doubts": []} == {"epochs": [0, 1], "incomplete_epochs": [], "doubts": []}
        assert rank["suggested"] == ranks[0]["suggested"]
        for parameter, value in rank["plain"].items():
            assert torch.equal(rank["weights"][parameter], value), parameter
    # Both processes had a share of their own, so a record of one of them would have been another one.
    assert ranks[0]["seen"][0][1] != ranks[1]["seen"][0][1]


@pytest.mark.slow
def test_a_step_that_one_process_cannot_read_makes_the_epoch_incomplete_in_all(folder: Path) -> None:
    ranks = left(folder, "left out")
    assert [len(rank["seen"]) for rank in ranks] == [8, 7]
    expected = fed(TrainingDynamics(N), [rank["seen"] for rank in ranks]).compute()
    assert expected.presentations.sum() == 2 * (N + 1) - 4
    for rank in ranks:
        assert_same(statistics(rank), expected)
        assert rank["attrs"]["incomplete_epochs"] == [1]
        for parameter, value in rank["plain"].items():
            assert torch.equal(rank["weights"][parameter], value), parameter


@pytest.mark.slow
def test_files_are_written_once_and_hold_the_merged_record_in_its_order(folder: Path) -> None:
    ranks = left(folder, "shuffle")
    record = load_record(folder / "shuffle")
    assert_same(record.statistics, statistics(ranks[0]))
    first = [index for step in range(4) for rank in ranks for index in rank["seen"][step][1]]
    assert next(iter(record.history()))[1]["index"].tolist() == first
    files = [path for path in (folder / "shuffle").rglob("*") if path.is_file() and "pictures" not in path.parts]
    assert sorted(path.name for path in files) == [
        "epoch_000000.npz", "epoch_000001.npz", "meta.json", "pictures.npz", "record.npz", "samples.csv",
        "suspects.csv",
    ]  # fmt: skip


@pytest.mark.slow
def test_one_process_explains_and_logs(folder: Path) -> None:
    run = folder / "explained" / "version_0"
    assert len(list((run / "dynalens" / "explanations").iterdir())) == 2
    assert len(list(run.glob("events*"))) == 1
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert len(events.Images("dynalens/explanations")) == 2
    assert [event.step for event in events.Scalars("dynalens/dynamics/learned")] == [3, 7]


@pytest.mark.slow
def test_every_process_has_the_newest_features_of_all(folder: Path) -> None:
    both = [torch.load(folder / f"explained.{rank}.pt") for rank in range(2)]
    newest: dict[int, torch.Tensor] = {}
    for steps in zip(both[0]["seen"], both[1]["seen"], strict=True):  # step by step, the second process last
        for _, indices, logits, _ in steps:
            newest |= dict(zip(indices, logits, strict=True))
    expected = torch.stack([newest[i] for i in range(N)]).bfloat16()
    for left in both:
        assert torch.equal(left["features"], expected)
    config = folder / "explained" / "version_0" / "projector_config.pbtxt"
    assert config.read_text().count("tensor_name") == 2  # epochs


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["resumed step=2", "resumed step=4", "resumed end-epoch=0", "resumed alone"])
def test_two_processes_resume_what_two_or_one_saved(folder: Path, resumed: str) -> None:
    ranks, first = left(folder, resumed), left(folder, "first")
    dynamics = TrainingDynamics(N)
    if resumed == "resumed end-epoch=0":
        fed(dynamics, [[entry for entry in rank["seen"] if entry[0] == 0] for rank in first])
        dynamics = fed(dynamics, [rank["seen"] for rank in ranks], first_epoch=1)
    elif resumed == "resumed alone":  # what the one process had in its unfinished epoch comes first
        for _, index, logits, y in torch.load(folder / "alone" / "seen.pt", weights_only=True):
            dynamics.update(index, logits, y)
        fed(dynamics, [rank["seen"] for rank in ranks])
    else:  # what two processes had in an unfinished epoch is lost
        fed(dynamics, [rank["seen"] for rank in ranks], first_epoch=ranks[0]["seen"][0][0])
    for rank in ranks:
        assert_same(statistics(rank), dynamics.compute())
        assert rank["attrs"]["incomplete_epochs"] == ([0] if "step" in resumed else [])
    assert load_record(folder / resumed).meta.incomplete_epochs == rank["attrs"]["incomplete_epochs"]


@pytest.mark.slow
def test_one_process_resumes_a_checkpoint_of_two(folder: Path, tmp_path: Path) -> None:
    model, monitor = Classifier(), TrainingDynamicsMonitor()
    checkpoint = str(folder / "checkpoints" / "end-epoch=0.ckpt")
    fit(tmp_path, monitor, model=model, data=lambda: loader(dataset(N)), ckpt_path=checkpoint, max_epochs=2)
    before = fed(
        TrainingDynamics(N), [[entry for entry in rank["seen"] if entry[0] == 0] for rank in left(folder, "first")]
    )
    assert_same(monitor.statistics(), fed(before, [model.seen], first_epoch=1).compute())
    assert load_record(tmp_path).table().equals(monitor.table())


CHANGED = "ValueError: Expected the label of a sample to stay the same, got"
LENGTHS = "SampleIdentityError: Expected the same training dataset in each process, got lengths [24, 25]. Give"
OTHERS = (
    "SampleIdentityError: Expected the same training dataset in each process, got other samples at the same positions."
)
ROWS = "RowCountError: Expected 4 rows of logits for 4 samples in the batch, got 3."
OTHER = "RuntimeError: Expected all 2 processes to go on, got an error in process"
# For each process the beginning of its error; and the steps before it.
ENDS: dict[str, tuple[str, str, int]] = {
    "label": (CHANGED, CHANGED, 4),
    "length": (LENGTHS, LENGTHS, 0),
    "parts": (OTHERS, OTHERS, 0),
    "files": (OTHERS, OTHERS, 0),
    "first batch": (f"{OTHER} 1: {ROWS}", ROWS, 1),
    "later batch": (f"{OTHER} 1: {ROWS}", ROWS, 4),
    "explanation": ("RuntimeError: on purpose", f"{OTHER} 0: RuntimeError: on purpose", 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAILURES, "explanation"])
def test_a_failure_in_one_process_raises_in_both(folder: Path, name: str) -> None:
    *messages, steps = ENDS[name]
    for rank, message in enumerate(messages):
        found, made = torch.load(folder / f"{name}.{rank}.pt", weights_only=True)
        assert found.startswith(message), found
        assert made == steps


@pytest.mark.slow
def test_the_record_of_processes_that_start_afresh_is_on_disk(tmp_path: Path) -> None:
    forked.run(tmp_path, two_processes.start_afresh, ranks=1)
    record = load_record(tmp_path / "started")
    assert record.statistics.presentations.sum() == 2 * (N + 1)
    assert record.meta.epochs == [0, 1]
    assert "is on disk: `load_record(" in torch.load(tmp_path / "started.pt", weights_only=True)


class Strategy:
    """Two processes, of which this is the first, with fixed answers of the other."""

    root_device = torch.device("cpu")

    def __init__(self, *others: torch.Tensor, **sampling: int) -> None:
        self.others, self.distributed_sampler_kwargs = list(others), sampling

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, self.others.pop(0)])


class FSDPStrategy(Strategy):
    pass


class DeepSpeedStrategy(Strategy):
    pass


class ModelParallelStrategy(Strategy):
    pass


class StubTrainer:
    world_size, is_global_zero, fast_dev_run = 2, True, False

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy


def test_presentations_are_ordered_by_step_rank_and_position() -> None:
    def ragged(*values: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([len(values)]), torch.tensor(values)

    # The other process made steps 0 and 2, of which the first had two rows; this one resumed with one row.
    others = [*ragged(0, 0, 2), *ragged(5, 6, 7), *ragged(50.0, 0.5, 60.0, 0.25, 70.0, 0.75)]
    others[1::2] = [nn.functional.pad(other, [0, size]) for other, size in zip(others[1::2], [1, 1, 2], strict=True)]
    processes = Processes(StubTrainer(Strategy(*others)))
    index, rows = processes.merge(
        np.array([9, 1, 2, 2]), np.array([[90.0, 10, 20, 21], [9, 1, 2, 3]]), np.array([-1, 0, 1, 1])
    )
    assert index.tolist() == [9, 1, 5, 6, 2, 2, 7]
    assert rows.tolist() == [[90, 10, 50, 60, 20, 21, 70], [9, 1, 0.5, 0.25, 2, 3, 0.75]]


def test_a_process_without_presentations_gets_those_of_the_other() -> None:
    one = torch.tensor([1])
    processes = Processes(StubTrainer(Strategy(one, one - 1, one, one + 7, 3 * one, torch.tensor([5.0, 6.0, 7.0]))))
    nothing = np.empty(0, np.int64)
    index, rows = processes.merge(nothing, np.empty((2, 0)), nothing)
    assert (index.tolist(), rows.tolist()) == ([8], [[5.0], [6.0], [7.0]])


def test_the_merged_presentations_are_none_where_no_process_has_any() -> None:
    processes = Processes(StubTrainer(Strategy(*[torch.tensor([0])] * 3)))
    nothing = np.empty(0, np.int64)
    index, rows = processes.merge(nothing, np.empty((6, 0)), nothing)
    assert (len(index), rows.shape) == (0, (6, 0))


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_explanations_are_refused_where_no_process_has_the_whole_model(strategy: type[Strategy]) -> None:
    message = f"`strategy` to keep the whole model in each process.*got {strategy.__name__}. Train with DDP"
    with pytest.raises(MisconfigurationException, match=message):
        AttributionMonitor().setup(StubTrainer(strategy()), nn.Identity(), "fit")


def test_processes_that_share_their_batches_are_refused() -> None:
    message = "batches of its own.*got ModelParallelStrategy, where 2 processes train on 1 parts.*tensor parallelism"
    with pytest.raises(MisconfigurationException, match=message):
        TrainingDynamicsMonitor().setup(StubTrainer(ModelParallelStrategy(num_replicas=1)), nn.Identity(), "fit")
