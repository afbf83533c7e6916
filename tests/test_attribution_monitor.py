"""What the attribution monitor writes is what its parts compute on the images that it should have kept."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dynalens import TrainingDynamicsMonitor
from dynalens.attribution import explain, pixel_relevance
from dynalens.capture import CaptureError
from dynalens.faithfulness import (
    CurveSettings,
    area_under_curve,
    faithfulness_curves,
    random_ranking,
    replaced_fractions,
)
from dynalens.pictures import FilmStrip
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


def logged(tmp_path: Path, *callbacks: Any, **options: Any) -> tuple[Any, EventAccumulator]:
    """Fit with TensorBoard and read the event file."""
    options = {"val": in_order} | options
    model = fit(tmp_path, *callbacks, logger=TensorBoardLogger(tmp_path, name="run"), **options)
    events = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return model, events


def explanation(tmp_path: Path, epoch: int) -> dict[str, np.ndarray]:
    return arrays_of(tmp_path / "dynalens" / "explanations" / f"epoch_{epoch:06d}.npz")


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_first_real_validation_batch_is_explained_with_the_model_of_the_epoch(tmp_path: Path) -> None:
    weights: list[dict[str, Tensor]] = []

    class Remembers(Classifier):
        def on_train_epoch_end(self) -> None:
            weights.append({name: value.clone() for name, value in self.state_dict().items()})

    # The sanity check's batches would be the same images; only their labels tell them apart.
    class Relabels(Remembers):
        def on_validation_batch_start(self, batch: Any, *args: Any) -> None:
            batch[1].add_(1).remainder_(3) if self.trainer.sanity_checking else None

    monitor = attribution_monitor(num_samples=3, steps=5)
    fit(tmp_path, monitor, model=Relabels(), val=in_order)
    x, y = images()[:3], labels()[:3]
    for epoch, state in enumerate(weights):
        model = Classifier()
        model.load_state_dict(state)
        expected, written = explain(model, x, y), explanation(tmp_path, epoch)
        np.testing.assert_allclose(written["logits"], expected.logits, rtol=1e-5)
        assert written["targets"].tolist() == y.tolist()
        relevance = {m: pixel_relevance(m, maps, (6, 6)) for m, maps in expected.maps.items()}
        for method, maps in (relevance | {"random": random_ranking(x)}).items():
            areas = {}
            for metric, curve in faithfulness_curves(model, x, y, maps, CurveSettings(steps=5)).items():
                np.testing.assert_allclose(written[f"{method}.{metric}.curves"], curve.values, rtol=1e-5)
                assert written[f"{method}.{metric}.fractions"].tolist() == replaced_fractions(36, 5).tolist()
                areas[metric] = area_under_curve(curve.values, replaced_fractions(36, 5))
                np.testing.assert_allclose(written[f"{method}.{metric}.values"], areas[metric], rtol=1e-5)
            gain = areas["insertion"] - areas["deletion"]
            np.testing.assert_allclose(written[f"{method}.symmetric_relevance_gain.values"], gain, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize("comes_first", [True, False])
def test_the_weights_that_are_trained_are_explained_beside_their_average(tmp_path: Path, comes_first: bool) -> None:
    averaging = getattr(pl.callbacks, "EMAWeightAveraging", None)
    if averaging is None:
        pytest.skip("this release of Lightning does not average weights")
    trained: list[Any] = []

    class Remembers(Classifier):
        def on_train_epoch_end(self) -> None:
            trained.append(copy.deepcopy(self.net.state_dict()))

    callbacks = [attribution_monitor(num_samples=2), averaging(decay=0.5)]
    model = fit(tmp_path, *callbacks[:: 1 if comes_first else -1], model=Remembers(), val=in_order, max_epochs=2)
    logits = explanation(tmp_path, 1)["logits"]
    averaged = model.net(images()[:2]).detach().numpy()
    model.net.load_state_dict(trained[-1])
    np.testing.assert_allclose(logits, model.net(images()[:2]).detach(), rtol=1e-5)
    assert not np.allclose(logits, averaged, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_the_first_training_batch_is_kept_where_there_is_no_validation(tmp_path: Path) -> None:
    fit(tmp_path, attribution_monitor(num_samples=2), data=in_order, max_epochs=2)
    assert [explanation(tmp_path, epoch)["targets"].tolist() for epoch in range(2)] == [labels()[:2].tolist()] * 2


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_a_fit_that_ends_before_the_validation_says_that_nothing_was_explained(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="at least one batch with images.*nothing was explained. Validate more often"):
        fit(tmp_path, attribution_monitor(), val=in_order, max_epochs=1, max_steps=2)  # ends before the validation
    assert not (tmp_path / "dynalens" / "explanations").exists()


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_explanations_of_an_earlier_run_in_the_same_folder_are_not_mixed_in(tmp_path: Path) -> None:
    for epochs in (3, 2):
        fit(tmp_path, attribution_monitor(num_samples=2), data=in_order, max_epochs=epochs)
        names = sorted(path.name for path in (tmp_path / "dynalens/explanations").iterdir())
        assert names == [f"epoch_{epoch:06d}.npz" for epoch in range(epochs)]


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_images_that_a_step_changes_in_place_are_kept_as_they_came(tmp_path: Path) -> None:
    class InPlace(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            batch[0].zero_()
            return loss

    monitor = attribution_monitor(num_samples=2)
    fit(tmp_path, monitor, model=InPlace(), data=in_order, max_epochs=1)
    assert monitor._explanations.samples._selected_samples is not None
    assert torch.equal(monitor._explanations.samples._selected_samples[0], images()[:2])


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_given_samples_are_explained(tmp_path: Path) -> None:
    monitor = attribution_monitor(samples=(images()[5:7], labels()[5:7]), every_n_epochs=2)
    fit(tmp_path, monitor, val=in_order)
    assert sorted(path.name for path in (tmp_path / "dynalens/explanations").iterdir()) == [
        "epoch_000000.npz", "epoch_000002.npz",
    ]  # fmt: skip
    assert explanation(tmp_path, 2)["targets"].tolist() == labels()[5:7].tolist()


def test_tags_steps_and_sizes_are_as_documented(tmp_path: Path) -> None:
    _, events = logged(tmp_path, attribution_monitor(num_samples=3), max_epochs=11)
    assert sorted(events.Tags()["images"]) == [
        "dynalens/explanations", "dynalens/film/grad_cam", "dynalens/film/saliency",
    ]  # fmt: skip
    pictures = events.Images("dynalens/explanations")
    assert [picture.step for picture in pictures] == list(range(5, 66, 6))  # as Lightning logs its epochs
    assert all(picture.width == 700 and picture.height > 3 * 128 for picture in pictures)
    means = events.Scalars("dynalens/faithfulness/grad_cam/insertion")
    areas = explanation(tmp_path / "run" / "version_0", 10)["grad_cam.insertion.values"]
    assert means[10].value == pytest.approx(areas.mean(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_a_film_says_which_sample_each_row_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films: list[list[str]] = []
    draw = FilmStrip.image

    def noted(film: FilmStrip, title: str, names: Sequence[str]) -> Any:
        films.append(list(names))
        return draw(film, title, names)

    monkeypatch.setattr(FilmStrip, "image", noted)
    monitor = attribution_monitor(methods=["saliency"], metrics=[], num_samples=3)
    fit(tmp_path, TrainingDynamicsMonitor(), monitor, data=in_order, max_epochs=1)
    assert films == [[f"{labels()[i]}, sample {i}" for i in range(3)]]


def test_the_axis_can_be_the_epoch_and_monitors_can_be_named(tmp_path: Path) -> None:
    first = attribution_monitor(x_axis="epoch", name="a", methods=["saliency"], metrics=[])
    second = attribution_monitor(x_axis="epoch", name="b", methods=["grad_cam"], metrics=["deletion"])
    _, events = logged(tmp_path, first, second, TrainingDynamicsMonitor(x_axis="epoch"))
    assert [picture.step for picture in events.Images("dynalens/a/explanations")] == [0, 1, 2]
    assert [value.step for value in events.Scalars("dynalens/b/faithfulness/grad_cam/deletion")] == [0, 1, 2]
    assert [value.step for value in events.Scalars("dynalens/dynamics/learned")] == [0, 1, 2]
    assert (tmp_path / "run/version_0/dynalens/b/explanations/epoch_000000.npz").exists()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("dynalens/a/faithfulness")]


def test_one_warning_and_files_are_all_there_is_without_tensorboard(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a TensorBoardLogger, got none.*pictures") as warned:
        fit(tmp_path, attribution_monitor(), val=in_order, logger=CSVLogger(tmp_path))
    assert len([w for w in warned if "TensorBoardLogger" in str(w.message)]) == 1
    folder = tmp_path / "lightning_logs/version_0/dynalens/pictures/dynalens/explanations"
    assert [path.name for path in sorted(folder.iterdir())] == ["000005.jpg", "000011.jpg", "000017.jpg"]
    with Image.open(folder / "000005.jpg") as picture:
        assert picture.size[0] > 600


def test_a_failing_explanation_is_switched_off_with_one_warning(tmp_path: Path) -> None:
    calls: list[int] = []

    def forward(module: Any, x: Tensor) -> Tensor:
        calls.append(1)
        raise MemoryError("none left")

    with pytest.warns(UserWarning, match="switched off, training goes on: MemoryError: none left") as warned:
        _, events = logged(tmp_path, attribution_monitor(forward=forward, methods=("grad_cam", "saliency")))
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert len(calls) == 3  # both methods at once, then each alone
    assert events.Tags()["images"] == []
    with pytest.raises(MemoryError, match="none left"):
        logged(tmp_path / "raise", attribution_monitor(forward=forward, on_error="raise"))


def test_logits_come_from_the_part_that_gives_them_or_from_forward(tmp_path: Path) -> None:
    class NoForward(Classifier):
        forward = nn.Module.forward

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0] / N), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            return

    model = NoForward()
    same = copy.deepcopy(model)
    _, found = logged(tmp_path / "a", attribution_monitor(), model=model)
    _, given = logged(tmp_path / "b", attribution_monitor(forward=lambda module, x: module.net(x)), model=same)
    tag = "dynalens/faithfulness/saliency/deletion"
    assert [value.value for value in found.Scalars(tag)] == [value.value for value in given.Scalars(tag)]
    assert len(found.Scalars(tag)) == 3


def test_fast_dev_run_and_validate_leave_no_trace(tmp_path: Path) -> None:
    monitor = attribution_monitor()
    fit(tmp_path, monitor, val=in_order, fast_dev_run=True)
    trainer(tmp_path, monitor).validate(Classifier(), in_order(), verbose=False)
    assert list(tmp_path.iterdir()) == []
    assert monitor._explanations.samples._selected_samples is None


def test_a_wrong_layer_is_refused_before_training_and_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`target_layer` .*'net.9'.* nearest names are: net"):
        fit(tmp_path, attribution_monitor(target_layer="net.9"))


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_a_batch_without_images_is_refused(tmp_path: Path) -> None:
    monitor = attribution_monitor(inputs=lambda batch: (batch[1], batch[0]), on_error="raise")
    with pytest.raises(CaptureError, match=r"Expected images .* Pass `inputs="):
        fit(tmp_path, monitor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["gradcam"]}, "`methods` to be among saliency"),
        ({"metrics": ["road"]}, "`metrics` to be among deletion"),
        ({"baseline": "black"}, "`baseline` to be one of blur"),
        ({"steps": 0}, "`steps` to be at least 1, got 0"),
        ({"num_samples": 0}, "`num_samples` to be at least 1"),
        ({"every_n_epochs": 0}, "`every_n_epochs` to be at least 1"),
        ({"x_axis": "time"}, "`x_axis` to be 'step' or 'epoch'"),
        ({"on_error": "ignore"}, "`on_error` to be 'warn' or 'raise', got 'ignore'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribution_monitor(**arguments)


def test_no_loader_is_opened_and_no_dataset_indexed(tmp_path: Path) -> None:
    drawn: list[int] = []

    class Noting(type(dataset())):  # type: ignore[misc]  # TensorDataset
        def __getitem__(self, i: Any) -> Any:
            drawn.append(i)
            return super().__getitem__(i)

    def run(*callbacks: Any) -> list[int]:
        drawn.clear()
        data = Noting(images(), labels())
        logged(
            tmp_path / str(len(callbacks)),
            *callbacks,
            data=lambda: loader(data),
            val=lambda: loader(data, shuffle=False),
        )
        return list(drawn)

    assert run(attribution_monitor(), TrainingDynamicsMonitor()) == run()


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_methods_of_all_kinds_are_explained_with_their_arguments(tmp_path: Path) -> None:
    def mine(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return images.abs()

    methods: Any = ("smooth_grad", "captum:Occlusion", mine, "grad_cam")
    arguments: dict[str, dict[str, Any]] = {
        "smooth_grad": {"samples": 2},
        "captum:Occlusion": {"sliding_window_shapes": [1, 3, 3]},
    }
    monitor = attribution_monitor(methods=methods, method_args=arguments, num_samples=2, steps=3)
    model = fit(tmp_path, monitor, val=in_order)
    x, y = images()[:2], labels()[:2]
    maps = explain(model, x, y, methods=methods, method_args=arguments).maps
    seen = explanation(tmp_path, 2)
    for name, values in maps.items():
        curves = faithfulness_curves(model, x, y, pixel_relevance(name, values, (6, 6)), CurveSettings(steps=3))
        np.testing.assert_allclose(seen[f"{name}.deletion.curves"], curves["deletion"].values, rtol=1e-5)


def test_methods_and_their_arguments_are_checked_in_the_constructor() -> None:
    with pytest.raises(ValueError, match=r"`method_args` of smooth_grad to be among samples, .*, got sample"):
        attribution_monitor(methods="smooth_grad", method_args={"smooth_grad": {"sample": 2}})
    with pytest.raises(ValueError, match="got 'Nothing': it is no attribution class"):
        attribution_monitor(methods="captum:Nothing")
