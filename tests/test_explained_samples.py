"""Which samples the attribution monitor explains, for which class, how often, and in how much memory."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynalens import AttributionMonitor, IndexedDataset, TrainingDynamicsMonitor
from dynalens.attribution import explain, pixel_relevance
from dynalens.explanations.collector import SampleCollector
from dynalens.explanations.epoch import EpochExplanations
from dynalens.faithfulness import (
    CurveSettings,
    faithfulness_curves,
    random_ranking,
    rank_correlation,
    runner_up,
)
from dynalens.schedule import Schedule
from training import (
    Classifier,
    N,
    arrays_of,
    attribution_monitor,
    dataset,
    fit,
    images,
    in_order,
    labels,
    loader,
    trainer,
)

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


def explanation(tmp_path: Path, epoch: int, name: str = "") -> dict[str, np.ndarray]:
    return arrays_of(tmp_path / "dynalens" / name / "explanations" / f"epoch_{epoch:06d}.npz")


class Remembers(Classifier):
    """Keeps its weights of each epoch's end."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self) -> None:
        self.weights.append({name: value.clone() for name, value in self.state_dict().items()})

    def of_epoch(self, epoch: int) -> Classifier:
        model = Classifier()
        model.load_state_dict(self.weights[epoch])
        return model


class SuspectsOfEachEpoch(pl.Callback):
    """Notes, after the tracker, which suspects it names."""

    def __init__(self, dynamics: TrainingDynamicsMonitor, n: int) -> None:
        self.dynamics, self.n, self.seen = dynamics, n, []  # type: ignore[var-annotated]  # lists of ids

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(self.dynamics.suspects(self.n).index.tolist())


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["explained first", "tracked first"])
def test_the_suspects_of_the_epoch_before_are_explained_for_label_and_prediction(
    tmp_path: Path, order: list[int]
) -> None:
    dynamics, model = TrainingDynamicsMonitor(), Remembers()
    monitor = attribution_monitor(num_samples=2, suspects=3, steps=5)
    callbacks = [[monitor, dynamics][i] for i in order]
    noted = SuspectsOfEachEpoch(dynamics, 3)
    fit(tmp_path, *callbacks, noted, model=model, val=in_order)
    assert not [key for key in explanation(tmp_path, 0) if key.startswith("suspects")]
    for epoch in (1, 2):
        written, ids = explanation(tmp_path, epoch), noted.seen[epoch - 1]
        x, y, network = images()[ids], labels()[ids], model.of_epoch(epoch)
        predicted = network.eval()(x).argmax(1)
        for which, targets in (("label", y), ("prediction", predicted)):
            prefix = f"suspects_{which}."
            assert written[f"{prefix}ids"].tolist() == ids
            assert written[f"{prefix}labels"].tolist() == y.tolist()
            assert written[f"{prefix}targets"].tolist() == targets.tolist()
            maps = pixel_relevance("saliency", explain(network, x, targets).maps["saliency"], (6, 6))
            for method, of in (("saliency", maps), ("random", random_ranking(x))):
                curves = faithfulness_curves(network, x, targets, of, CurveSettings(steps=5))
                found = written[f"{prefix}{method}.deletion.curves"]
                np.testing.assert_allclose(found, curves["deletion"].values, rtol=1e-5)


def test_a_suspect_whose_label_is_predicted_has_one_row() -> None:
    def rows(explained_for: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(explained_for=explained_for, is_correct=each) for each in (True, False)]

    of_samples = SimpleNamespace(fractions=lambda: None, rows=lambda *_, **__: [])
    of_suspects = {name: SimpleNamespace(rows=lambda _, name, **__: rows(name)) for name in ("label", "prediction")}
    shown = EpochExplanations(of_samples, of_suspects).rows()  # type: ignore[arg-type]  # stand-ins for results
    assert [(row.explained_for, row.is_correct) for row in shown] == [
        ("label", True), ("label", False), ("prediction", False),
    ]  # fmt: skip


class Noting(Dataset[Any]):
    """A dataset that writes down what is asked of it."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        self.drawn.append(i)
        return images()[i], labels()[i]


def test_no_loader_is_opened_and_no_dataset_indexed_for_suspects_and_ids(tmp_path: Path) -> None:
    def drawn(*callbacks: Any) -> list[int]:
        data = Noting()
        fit(tmp_path / str(len(callbacks)), *callbacks, data=lambda: loader(data))
        return data.drawn

    watching = (
        attribution_monitor(suspects=4),
        attribution_monitor(samples=[3, 5], name="ids"),
        TrainingDynamicsMonitor(),
    )
    assert drawn(*watching) == drawn()
    assert explanation(tmp_path / "3", 1)["suspects_label.ids"].shape == (4,)


def test_suspects_of_a_batch_that_holds_its_own_index(tmp_path: Path) -> None:
    class Own(Dataset[Any]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            return {"image": images()[i], "label": labels()[i], "id": i}

    class FromDict(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    dynamics = TrainingDynamicsMonitor(index="id")
    noted, monitor = SuspectsOfEachEpoch(dynamics, 4), attribution_monitor(steps=2)
    fit(tmp_path, dynamics, monitor, noted, model=FromDict(), data=lambda: loader(Own()))
    written = explanation(tmp_path, 2)
    assert sorted(written["suspects_label.ids"].tolist()) == sorted(noted.seen[1])
    assert written["suspects_label.labels"].tolist() == labels()[written["suspects_label.ids"]].tolist()


def test_training_batches_without_images_leave_the_suspects_out_with_one_warning(tmp_path: Path) -> None:
    class TwoViews(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            (x, _), y = batch
            return super().training_step((x, y), batch_idx)

    class Views(Noting):
        def __getitem__(self, i: int) -> Any:
            return (images()[i], images()[i]), labels()[i]

    callbacks = TrainingDynamicsMonitor(), attribution_monitor(steps=2)
    with pytest.warns(UserWarning, match="Suspects are not explained, training goes on: Expected images") as warned:
        fit(tmp_path, *callbacks, model=TwoViews(), data=lambda: loader(Views()), val=in_order)
    assert len([w for w in warned if "Suspects" in str(w.message)]) == 1
    assert "saliency.deletion.values" in explanation(tmp_path, 2)


@pytest.mark.parametrize("tracked", [False, True])
def test_samples_by_id_are_kept_when_they_first_pass(tmp_path: Path, tracked: bool) -> None:
    class InPlace(Remembers):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            batch[0].zero_()
            return loss

    model = InPlace()
    monitor = attribution_monitor(samples=[17, 3, 8], steps=4, suspects=0)
    others = [TrainingDynamicsMonitor()] if tracked else []
    fit(tmp_path, monitor, *others, model=model, val=in_order)
    for epoch in range(3):
        written = explanation(tmp_path, epoch)
        assert written["ids"].tolist() == [17, 3, 8]
        assert written["labels"].tolist() == labels()[[17, 3, 8]].tolist()
        logits = model.of_epoch(epoch).eval()(images()[[17, 3, 8]])
        np.testing.assert_allclose(written["logits"], logits.detach(), rtol=1e-4, atol=1e-5)


def test_an_id_that_never_passes_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"samples that are trained on, got \[99\], which were in no batch"):
        fit(tmp_path, attribution_monitor(samples=[1, 99], steps=2), max_epochs=1)
    assert explanation(tmp_path, 0)["ids"].tolist() == [1]


@pytest.mark.usefixtures("drawn")
def test_the_target_can_be_the_prediction(tmp_path: Path) -> None:
    model = Remembers()
    fit(tmp_path, attribution_monitor(target="prediction", steps=3, num_samples=4), model=model, val=in_order)
    written, network = explanation(tmp_path, 2), model.of_epoch(2).eval()
    predicted = network(images()[:4]).argmax(1)
    assert written["targets"].tolist() == predicted.tolist()
    assert written["labels"].tolist() == labels()[:4].tolist()
    curves = faithfulness_curves(network, images()[:4], predicted, random_ranking(images()[:4]), CurveSettings(steps=3))
    np.testing.assert_allclose(written["random.insertion.curves"], curves["insertion"].values, rtol=1e-5)


def test_maps_are_compared_with_the_last_the_first_and_another_class(tmp_path: Path) -> None:
    model, x, y = Remembers(), images()[:4], labels()[:4]
    names = ("attribution_drift", "randomisation_check", "class_sensitivity")
    monitor = attribution_monitor(methods=["saliency"], metrics=names, num_samples=4)
    fit(tmp_path, monitor, model=model, val=in_order)
    found = [explain(model.of_epoch(e), x, y, methods=["saliency"]) for e in range(3)]
    maps = [pixel_relevance("saliency", of.maps["saliency"], (6, 6)) for of in found]
    assert not {"saliency.attribution_drift.values", "random.class_sensitivity.values"} & set(explanation(tmp_path, 0))
    others = explain(model.of_epoch(2), x, runner_up(found[2].logits, y), methods=["saliency"])
    expected = {
        "attribution_drift": rank_correlation(maps[2], maps[1]),
        "randomisation_check": rank_correlation(maps[2], maps[0]),
        "class_sensitivity": rank_correlation(maps[2], pixel_relevance("saliency", others.maps["saliency"], (6, 6))),
    }
    for name, values in expected.items():
        written = explanation(tmp_path, 2)[f"saliency.{name}.values"]
        np.testing.assert_allclose(written, values, rtol=1e-4, atol=1e-5)
        assert float(values.abs().max()) < 1


@pytest.mark.usefixtures("drawn")
def test_steps_patches_baseline_and_precision_reach_the_curves(tmp_path: Path) -> None:
    model, x, y = Remembers(), images()[:3], labels()[:3]
    monitor = attribution_monitor(
        methods=["saliency"], metrics=["deletion", "average_drop"], steps="auto", patch_size=2, num_samples=3,
        precision="bfloat16", baseline=torch.zeros_like,
    )  # fmt: skip
    fit(tmp_path, monitor, model=model, val=in_order)
    maps = pixel_relevance("saliency", explain(model.of_epoch(1), x, y).maps["saliency"], (6, 6))
    settings = CurveSettings("zero", "auto", patch_size=2, precision="bfloat16")
    logits = model.of_epoch(1).eval()(x).detach()
    curve = faithfulness_curves(model.of_epoch(1), x, y, maps, settings, logits=logits)["deletion"]
    written = explanation(tmp_path, 1)
    np.testing.assert_allclose(written["saliency.deletion.curves"], curve.values, rtol=1e-4)
    np.testing.assert_allclose(written["saliency.deletion.fractions"], curve.fractions)
    np.testing.assert_allclose(written["saliency.deletion.errors"], curve.errors, rtol=1e-3)
    assert list((tmp_path / "dynalens/pictures").rglob("*.jpg"))


def test_scores_are_in_the_trainers_precision(tmp_path: Path) -> None:
    monitor = attribution_monitor(steps=2)
    fit(tmp_path, monitor, val=in_order, precision="bf16-mixed", max_epochs=1)
    assert monitor._explanations.explainer.settings.precision == "bfloat16"
    fit(tmp_path, monitor, val=in_order, max_epochs=1)
    assert monitor._explanations.explainer.settings.precision == "float32"


class LittleMemory(Classifier):
    """Runs out of memory on more images than it has room for, and writes their numbers to a file."""

    def __init__(self, room: int, refused: Path) -> None:
        super().__init__()
        self.room, self.refused = room, refused

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            with self.refused.open("a") as file:  # attributes and globals are put back after each look
                print(len(x), file=file)
            raise torch.OutOfMemoryError("none left")
        return super().forward(x)


def test_out_of_memory_takes_smaller_chunks_and_changes_nothing(tmp_path: Path) -> None:
    few, enough = LittleMemory(5, tmp_path / "refused"), Classifier()
    few.load_state_dict(enough.state_dict())
    fit(tmp_path / "few", attribution_monitor(steps=6, num_samples=4), model=few, val=in_order)
    fit(tmp_path / "enough", attribution_monitor(steps=6, num_samples=4), model=enough, val=in_order)
    assert (tmp_path / "refused").read_text().split() == ["32", "16", "8"]  # in the first epoch; the later ones know
    for name, values in explanation(tmp_path / "enough", 2).items():
        np.testing.assert_allclose(explanation(tmp_path / "few", 2)[name], values, rtol=1e-4, atol=1e-6)


def test_explanations_end_with_one_warning_where_one_image_is_too_much(tmp_path: Path) -> None:
    class NoMemory(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            return

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0] / N), batch[1])

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise torch.OutOfMemoryError("none left")
            return super().forward(x)

    monitor = attribution_monitor(forward=lambda module, x: module(x))
    with pytest.warns(UserWarning, match="switched off, training goes on: OutOfMemoryError: none left") as warned:
        fit(tmp_path, monitor, model=NoMemory(), val=in_order)
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert monitor._explanations.explainer.chunk_size == 1


def test_a_budget_spreads_explanations_over_more_epochs() -> None:
    budget = Schedule(2, 0.1)
    assert [epoch for epoch in range(3) if budget.is_due(epoch)] == [0, 2]
    budget.add_training(10)
    assert budget.overhead(2.5) == 0.25
    assert budget.wait(2.5) == 4  # 2.5 s of 10 s an epoch: 10 % after 2.5 epochs, at an even epoch
    budget.note_results(0, 4)
    assert [epoch for epoch in range(9) if budget.is_due(epoch)] == [4, 6, 8]
    for _ in range(4):
        budget.add_training(10)
    assert budget.overhead(2.0) == 0.05
    assert budget.wait(2.0) == 2
    unlimited = Schedule(1, None)
    unlimited.add_training(1)
    assert unlimited.wait(1000) == 1


def test_the_first_and_the_last_epoch_are_explained_however_long_that_takes() -> None:
    short = Schedule(1, 0.05, last_epoch=9)
    for epoch in range(10):
        short.add_training(1.0)
        assert short.is_due(epoch) == (epoch in (0, 9))
        if short.is_due(epoch):
            short.account(epoch, 3.0)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.12, "epoch 3, and the last epoch always has some"), (1, "epoch 9, the last one")]
)
def test_the_epoch_of_the_next_results_is_told_once(seconds: float, words: str) -> None:
    schedule = Schedule(1, 0.05, last_epoch=9)
    schedule.add_training(seconds=1)
    plan = schedule.account(0, seconds=seconds)  # half a second in all
    told = str(schedule.first_words("pictures", "LayerMonitor", **plan))
    assert f"The next ones are of {words}. To get them" in told
    assert told.endswith("pass `max_overhead=None` to LayerMonitor.")
    assert schedule.first_words("pictures", "LayerMonitor", **plan) is None


def explained_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stop: int | None = None, **arguments: Any
) -> tuple[list[tuple[int, dict[str, float]]], list[str]]:
    """Fit ten epochs of six seconds beside explanations of three quarters: what is logged of each, and what is said."""
    now = [0.0]
    logged: list[tuple[int, dict[str, float]]] = []
    said: list[str] = []

    class Slow(Classifier):
        def on_train_epoch_end(self) -> None:  # after the callbacks
            now[0] += 1000
            self.trainer.should_stop = self.current_epoch == stop

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            now[0] += 1
            return super().training_step(batch, batch_idx)

    def forward(module: Any, x: Tensor) -> Tensor:
        now[0] += 0.75
        logits: Tensor = module(x)
        return logits

    monkeypatch.setattr("dynalens.schedule.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("dynalens.callbacks.paced.announce", said.append)
    monkeypatch.setattr(
        "dynalens.callbacks.attribution.log_scalars",
        lambda trainer, values, step: logged.append((step, dict(values))),
    )
    monitor = AttributionMonitor(
        methods=["saliency"], metrics=[], forward=forward, x_axis="epoch", suspects=0, **arguments
    )
    fit(tmp_path, monitor, model=Slow(), max_epochs=10)
    return [each for each in logged if "dynalens/explanations/overhead" in each[1]], said


def test_the_overhead_is_measured_logged_and_kept_in_the_whole_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, said = explained_epochs(tmp_path, monkeypatch)
    # Sixty seconds allow three, which are four explanations.
    assert [step for step, _ in own] == [0, 3, 6, 9]
    assert [values["dynalens/explanations/overhead"] for _, values in own] == pytest.approx([0.125] + 3 * [0.75 / 18])
    assert [values["dynalens/explanations/every_n_epochs"] for _, values in own] == [3, 3, 3, 3]
    assert len(said) == 1
    assert re.search(
        r"explanations took 12\.5 % .* `max_overhead=0\.05`\. The next ones are of epoch 3, and the last", said[0]
    )


def test_the_last_epoch_is_explained_where_training_stops_before_it_was_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = explained_epochs(tmp_path, monkeypatch, stop=4, max_overhead=0.03)
    assert [step for step, _ in own] == [0, 4]
    assert sorted(path.name for path in (tmp_path / "dynalens/explanations").iterdir()) == [
        "epoch_000000.npz",
        "epoch_000004.npz",
    ]


def test_only_every_nth_epoch_is_explained_where_there_is_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, said = explained_epochs(tmp_path, monkeypatch, every_n_epochs=4, max_overhead=0.05)
    assert ([step for step, _ in own], said) == ([0, 4, 8], [])


def test_a_resumed_run_goes_on_with_its_samples_and_maps(tmp_path: Path) -> None:
    def monitors() -> list[Any]:
        return [
            attribution_monitor(methods=["saliency"], steps=3, num_samples=3),
            attribution_monitor(methods=["saliency"], steps=3, samples=[4, 2], name="ids"),
        ]

    whole, half = tmp_path / "whole", tmp_path / "half"
    checkpoint = pl.callbacks.ModelCheckpoint(half, filename="{epoch}")
    fit(whole, *monitors(), data=lambda: loader(shuffle=False))
    fit(half, *monitors(), checkpoint, data=lambda: loader(shuffle=False), max_epochs=2, enable_checkpointing=True)

    class Reversed(Noting):
        def __getitem__(self, i: int) -> Any:
            return images()[i] + 1, labels()[i]  # would be kept if nothing had been

    model = Classifier()
    resumed = monitors()
    torch.load(half / "epoch=1.ckpt", weights_only=True)
    trainer(half, *resumed).fit(model, DataLoader(Reversed(), batch_size=4), ckpt_path=str(half / "epoch=1.ckpt"))
    assert torch.equal(resumed[0]._explanations.samples._selected_samples[0], images()[:3])
    for name in ("", "ids"):
        after, before = explanation(half, 2, name), explanation(whole, 2, name)
        assert after["labels"].tolist() == before["labels"].tolist()
        assert "saliency.attribution_drift.values" in after
    assert torch.equal(resumed[1]._explanations.samples.every_epoch()[1], images()[[4, 2]])


def test_a_second_fit_explains_its_epochs_too(tmp_path: Path) -> None:
    monitor = attribution_monitor(steps=2, num_samples=2)
    fit(tmp_path / "first", monitor, val=in_order)
    fit(tmp_path / "second", monitor, val=in_order, max_epochs=2)
    assert len(list((tmp_path / "second/dynalens/explanations").iterdir())) == 2


def test_images_of_a_validation_batch_survive_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}")
    fit(tmp_path, attribution_monitor(steps=2), checkpoint, val=in_order, max_epochs=1, enable_checkpointing=True)
    stored = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["callbacks"]
    state = next(values for key, values in stored.items() if key.startswith("AttributionMonitor"))
    other = attribution_monitor(steps=2)
    other.load_state_dict(state)
    fit(tmp_path / "again", other, val=in_order, max_epochs=1)
    assert explanation(tmp_path / "again", 0)["labels"].tolist() == labels()[:8].tolist()


def batches(ids: list[list[int]], *, tensors: bool) -> list[tuple[Any, Tensor, Tensor]]:
    return [(torch.tensor(i) if tensors else i, images()[i].clone(), labels()[i]) for i in ids]


@pytest.mark.parametrize("tensors", [False, True], ids=["ids of the sampler", "ids in the batch"])
def test_passing_samples_are_copied_once_whatever_holds_their_ids(tensors: bool) -> None:
    passing = SampleCollector([5, 1, 9, 5])
    assert passing.result() is None
    for ids, x, y in batches([[0, 1, 2], [5, 3], [1, 5]], tensors=tensors):
        passing.offer(ids, x, y)
        x.zero_()
    passing.offer(torch.tensor([5, 9]) if tensors else [5, 9], torch.zeros(2, 1, 7, 7), torch.zeros(2).long())
    found = passing.result()
    assert found is not None
    assert found[0] == [5, 1]
    assert torch.equal(found[1], images()[[5, 1]])
    assert torch.equal(found[2], labels()[[5, 1]])


def test_no_sample_is_collected_without_wanted_ids() -> None:
    passing = SampleCollector([])
    passing.offer(torch.tensor([1]), images()[:1], labels()[:1])
    assert passing.complete
    assert passing.result() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suspects": -1}, "`suspects` to be at least 0, got -1"),
        ({"max_overhead": 0.0}, r"`max_overhead` to be above 0 or None, got 0\.0"),
        ({"target": "truth"}, "`target` to be 'label' or 'prediction', got 'truth'"),
        ({"precision": "half"}, "`precision` to be one of float32, bfloat16, float16, got 'half'"),
        ({"patch_size": 0}, "`patch_size` to be at least 1"),
        ({"samples": [1, -2]}, "`samples` to be images .* got 0 tensors and 2 other entries"),
        ({"samples": []}, "`samples` to be images .* got 0 tensors and 0 other entries"),
        ({"samples": (torch.zeros(2, 1, 6, 6), torch.zeros(3))}, "`samples` to be images .* got 2 tensors"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribution_monitor(**arguments)


def test_suspects_need_a_tracker(tmp_path: Path) -> None:
    fit(tmp_path, attribution_monitor(steps=2), val=in_order)
    assert not [key for key in explanation(tmp_path, 2) if key.startswith("suspects")]


class OfPairs(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch[:2], batch_idx)


@pytest.mark.parametrize("validates", [True, False])
def test_an_indexed_dataset_is_read_as_the_one_in_it(tmp_path: Path, validates: bool) -> None:
    def data() -> DataLoader[Any]:
        return loader(IndexedDataset(dataset()), shuffle=False)

    monitor = attribution_monitor(methods=["saliency"], steps=3, num_samples=3, suspects=2)
    by_id = attribution_monitor(methods=["saliency"], steps=3, samples=np.array([4, 2]), name="ids")
    fit(
        tmp_path, monitor, by_id, TrainingDynamicsMonitor(), model=OfPairs(), data=data, val=data if validates else None
    )
    assert monitor._explanations.samples._selected_samples is not None
    assert torch.equal(monitor._explanations.samples._selected_samples[0], images()[:3])
    assert explanation(tmp_path, 2)["suspects_label.ids"].shape == (2,)
    assert explanation(tmp_path, 2, "ids")["ids"].tolist() == [4, 2]
