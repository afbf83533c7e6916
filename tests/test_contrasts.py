"""The gallery shows what speaks for the suggested rather than the given class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamicsMonitor
from dynalens.attribution import input_x_gradient
from dynalens.explanations.collector import SampleCollector
from dynalens.logs import dynamics_pictures
from dynalens.pictures import Suspect, small_map, suspects_gallery
from dynalens.schedule import Schedule
from test_explained_samples import Remembers, SuspectsOfEachEpoch
from training import Classifier, K, N, attribution_monitor, fit, images, in_order, labels, loader

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")


@pytest.fixture
def galleries(monkeypatch: pytest.MonkeyPatch) -> list[list[Suspect]]:
    """What each gallery was drawn of."""
    drawn: list[list[Suspect]] = []
    draw = suspects_gallery

    def notes(suspects: Any, *options: Any) -> Any:
        drawn.append(list(suspects))
        return draw(suspects, *options)

    monkeypatch.setattr(dynamics_pictures, "suspects_gallery", notes)
    return drawn


class Looks(TrainingDynamicsMonitor):
    """Keeps the classes of each sample as of each epoch's end."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.classes: list[tuple[np.ndarray, np.ndarray]] = []

    def _write_epoch(self, presentations: Any, log_to: Any, noise: dict[str, float]) -> None:
        statistics = self.statistics()
        self.classes.append((statistics.candidate, statistics.label))
        super()._write_epoch(presentations, log_to, noise)


@pytest.mark.parametrize("first", [0, 1], ids=["explained first", "tracked first"])
def test_the_map_of_a_suspect_is_the_difference_of_the_maps_of_both_classes(
    tmp_path: Path, galleries: list[list[Suspect]], first: int
) -> None:
    torch.manual_seed(0)
    dynamics, model = Looks(top_k=5, max_overhead=None), Remembers()
    monitors = [attribution_monitor(suspects=0, num_samples=2), dynamics]
    fit(tmp_path, *(monitors if first == 0 else monitors[::-1]), model=model, val=in_order)
    assert len(galleries) == 2  # from the second epoch on
    compared = 0
    for epoch, suspects in enumerate(galleries, start=1):
        candidate, label = dynamics.classes[epoch]
        network = model.of_epoch(epoch)
        for suspect in suspects:
            i = int(suspect.sample_id)
            assert (suspect.contrast is None) == (suspect.picture is None)
            if suspect.contrast is None:  # it was not among the 12 that were followed
                continue
            x = images()[i : i + 1]
            of, against = (input_x_gradient(network, x, torch.tensor([int(c[i])])) for c in (candidate, label))
            np.testing.assert_allclose(suspect.contrast, (of - against)[0].sum(0), rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared >= 6


def test_a_suspect_without_contrast_or_explanations_has_no_map(tmp_path: Path, galleries: list[list[Suspect]]) -> None:
    fit(
        tmp_path / "a",
        attribution_monitor(contrast=None),
        TrainingDynamicsMonitor(max_overhead=None, top_k=5),
        val=in_order,
    )
    assert not [s for suspects in galleries for s in suspects if s.contrast is not None]
    galleries.clear()
    callbacks = attribution_monitor(every_n_epochs=2), TrainingDynamicsMonitor(max_overhead=None, top_k=5)
    fit(tmp_path / "b", *callbacks, val=in_order)
    assert [[s.contrast is not None for s in suspects] for suspects in galleries] == [[False] * 5, [True] * 5]


def test_another_monitors_suspects_are_not_mistaken_for_ones_own(
    tmp_path: Path, galleries: list[list[Suspect]]
) -> None:
    callbacks = (
        TrainingDynamicsMonitor(max_overhead=None, top_k=5),
        TrainingDynamicsMonitor(top_k=6, name="b"),
        attribution_monitor(),
    )
    fit(tmp_path, *callbacks, val=in_order)
    for suspects in galleries:
        assert all((s.contrast is not None) == (len(suspects) == 5) for s in suspects)


def test_string_ids_find_their_maps(tmp_path: Path, galleries: list[list[Suspect]]) -> None:
    def read(batch: Any) -> list[str]:
        return [f"s{int(i)}" for i in batch[0][:, 0, 0, 0]]

    fit(tmp_path, attribution_monitor(), TrainingDynamicsMonitor(index=read, top_k=5, max_overhead=None), val=in_order)
    assert all(s.contrast is not None and s.sample_id.startswith("s") for suspects in galleries for s in suspects)


def test_a_map_that_fails_switches_explanations_off_once_and_the_gallery_goes_on(
    tmp_path: Path, galleries: list[list[Suspect]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("no map")

    monkeypatch.setattr("dynalens.explanations.explainer.contrast", fails)
    with pytest.warns(UserWarning, match="switched off, training goes on: ZeroDivisionError: no map") as warned:
        fit(tmp_path / "a", attribution_monitor(), TrainingDynamicsMonitor(max_overhead=None), val=in_order)
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert len(galleries) == 2
    with pytest.raises(ZeroDivisionError, match="no map"):
        fit(
            tmp_path / "b",
            attribution_monitor(on_error="raise"),
            TrainingDynamicsMonitor(max_overhead=None),
            val=in_order,
        )


def test_contrasts_try_smaller_chunks_where_memory_runs_out(
    tmp_path: Path, galleries: list[list[Suspect]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int | None] = []
    real = input_x_gradient

    def greedy(model: Any, x: Any, of: Any, against: Any, *, method: str, forward: Any, chunk_size: Any) -> Any:
        sizes.append(chunk_size)
        if chunk_size is None or chunk_size > 4:
            raise torch.OutOfMemoryError
        return real(model, x, torch.stack([of, against], dim=1), forward=forward, chunk_size=chunk_size)

    monkeypatch.setattr("dynalens.explanations.explainer.contrast", greedy)
    fit(
        tmp_path, attribution_monitor(), TrainingDynamicsMonitor(max_overhead=None, top_k=5), val=in_order, max_epochs=2
    )
    assert sizes[0] is None
    assert sizes[-1] is not None
    assert sizes[-1] <= 4
    assert [s.contrast is not None for s in galleries[0]] == [True] * 5


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected `contrast` to be one of saliency, .*got 'attention_rollout'"):
        attribution_monitor(contrast="attention_rollout")


def test_the_time_of_contrasts_counts_for_the_budget() -> None:
    budget = Schedule(1, 0.1)
    budget.add_training(10.0)
    budget.add_aside(3.0)
    assert budget.overhead(1.0) == pytest.approx(0.4)
    assert budget.wait(1.0) == 4  # 4 seconds are 10 % of 40, four epochs
    budget.note_results(0, 4)
    budget.add_training(10.0)
    assert budget.overhead(1.0) == pytest.approx(0.1)


def test_the_first_of_the_passing_samples() -> None:
    for device_rows in (False, True):
        passing = SampleCollector([7, 3, 9])
        ids = torch.tensor([9, 7])
        if device_rows:
            passing._offer_tensor(ids, torch.zeros(2, 1, 1, 1), torch.tensor([1, 0]))
        else:
            passing.offer(ids, torch.zeros(2, 1, 1, 1), torch.tensor([1, 0]))
        every, first = passing.result(), passing.result(2)
        assert every is not None
        assert first is not None
        assert (every[0], first[0]) == ([7, 9], [7])


def test_the_explained_suspects_are_still_those_asked_for(tmp_path: Path) -> None:
    dynamics = TrainingDynamicsMonitor(max_overhead=None, top_k=5)
    noted = SuspectsOfEachEpoch(dynamics, 2)
    fit(tmp_path, attribution_monitor(suspects=2), dynamics, noted, val=in_order)
    with np.load(tmp_path / "dynalens" / "explanations" / "epoch_000002.npz") as written:
        assert written["suspects_label.ids"].tolist() == noted.seen[1]


class Signals(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(30, 3))

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_signals_have_maps_too(tmp_path: Path, galleries: list[list[Suspect]]) -> None:
    x = torch.randn(N, 2, 12, generator=torch.Generator().manual_seed(0))
    fit(
        tmp_path, attribution_monitor(methods="saliency", metrics=()),
        TrainingDynamicsMonitor(max_overhead=None, top_k=5),
        model=Signals(), data=lambda: loader(TensorDataset(x, labels())),
    )  # fmt: skip
    assert all(s.contrast is not None and s.contrast.shape == (12,) for suspects in galleries for s in suspects)


def pooled() -> Classifier:
    torch.manual_seed(0)
    model = Classifier()
    model.net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, K)
    )  # fmt: skip
    return model


def test_the_map_of_a_large_image_has_the_size_of_its_picture(tmp_path: Path, galleries: list[list[Suspect]]) -> None:
    large = TensorDataset(F.interpolate(images(), (224, 160)), labels())
    monitors = [attribution_monitor(suspects=0, metrics=()), TrainingDynamicsMonitor(top_k=5, max_overhead=None)]
    fit(tmp_path, *monitors, model=pooled(), data=lambda: loader(large), max_epochs=2)
    maps = [suspect.contrast for suspect in galleries[-1] if suspect.picture is not None]
    assert {None if relevance is None else relevance.shape for relevance in maps} == {(112, 80)}


def test_a_map_of_inputs_that_the_user_has_turned_is_not_drawn_over_others(
    tmp_path: Path, galleries: list[list[Suspect]]
) -> None:
    wide = TensorDataset(F.interpolate(images(), (6, 9)), labels())
    monitor = attribution_monitor(
        suspects=0, metrics=(), inputs=lambda batch: (batch[0].transpose(2, 3), batch[1]),
        forward=lambda module, x: module(x.transpose(2, 3)),
    )  # fmt: skip
    dynamics = TrainingDynamicsMonitor(top_k=5, max_overhead=None)
    fit(tmp_path, monitor, dynamics, model=pooled(), data=lambda: loader(wide), max_epochs=2)
    assert any(suspect.picture is not None for suspect in galleries[-1])
    assert all(suspect.contrast is None for suspect in galleries[-1])


def test_a_small_map_has_the_means_of_the_pixels_that_a_small_copy_has() -> None:
    relevance, picture = np.random.default_rng(0).normal(size=(224, 448)), np.zeros((56, 112, 3), np.uint8)
    expected = [[relevance[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].mean() for c in range(112)] for r in range(56)]
    small = small_map(relevance, picture)
    assert small is not None
    np.testing.assert_allclose(small, expected, atol=1e-6)
