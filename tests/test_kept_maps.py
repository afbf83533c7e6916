"""What is kept of explanations on disk: the same samples in every epoch, by name, with their maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, explain, load_explanations
from dynalens.explanations.files import packed_maps
from dynalens.explanations.names import content_ids
from dynalens.pictures.overlays import bars_cell
from training import Classifier, N, attribution_monitor, dataset, fit, images, in_order, labels, loader

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]


def monitor(**arguments: Any) -> AttributionMonitor:
    defaults: dict[str, Any] = {"num_samples": 2, "metrics": (), "on_error": "raise"}
    return attribution_monitor(**(defaults | arguments))


def test_maps_and_positions_in_the_validation_set_are_kept(tmp_path: Path) -> None:
    model = fit(tmp_path, monitor(methods=("saliency", "grad_cam")), val=in_order, max_epochs=2)
    epochs = load_explanations(tmp_path)
    assert [epoch.epoch for epoch in epochs] == [0, 1]
    assert [epoch.ids for epoch in epochs] == [["validation 0", "validation 1"]] * 2
    assert epochs[1].labels.tolist() == epochs[1].targets.tolist() == labels()[:2].tolist()
    # the weights after the last epoch explain the same images in the same way
    now = explain(model, images()[:2], labels()[:2], methods=("saliency", "grad_cam")).maps
    np.testing.assert_allclose(epochs[1].maps["saliency"], now["saliency"].abs().amax(1), rtol=2**-10, atol=1e-7)
    np.testing.assert_allclose(epochs[1].maps["grad_cam"], now["grad_cam"], rtol=2**-10, atol=1e-7)
    assert epochs[1].maps["grad_cam"].shape == (2, 4, 4)  # the resolution of the layer


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_two_runs_keep_the_same_names_for_images_of_a_shuffled_validation(tmp_path: Path) -> None:
    for run in ("a", "b"):
        fit(tmp_path / run, monitor(samples=None), val=lambda: loader(shuffle=True), max_epochs=1)
    first, second = (load_explanations(tmp_path / run)[0] for run in ("a", "b"))
    assert first.ids == second.ids
    assert all(str(sample).startswith("image ") for sample in first.ids)


def test_images_are_named_by_their_contents_whatever_their_dtype() -> None:
    for x in (images()[:3], torch.ones(2, 3, dtype=torch.int64), torch.complex(images()[:1], images()[:1])):
        assert content_ids(x) == content_ids(x.clone())
    assert len(set(content_ids(images()))) == N


def written(folder: Path, name: str = "epoch_000000", **changes: Any) -> None:
    content: dict[str, Any] = {**packed_maps("saliency", torch.rand(2, 3, 3)), "ids": np.array([7, 8])}
    content |= {"labels": np.array([0, 1]), "targets": np.array([0, 1])} | changes
    (folder / "explanations").mkdir(exist_ok=True)
    np.savez(
        folder / "explanations" / f"{name}.npz", **{key: each for key, each in content.items() if each is not None}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels"),
        ({"labels": np.array([0])}, "labels of int64"),
        ({"targets": np.array([0.5, 1.0])}, "targets of float64"),
        ({"ids": np.arange(3)}, "labels of int64 and shape .2,. for 3 samples"),
        ({"saliency.scales": None}, "saliency.scales"),
        ({"saliency.maps": np.zeros((5, 3, 3), np.float16)}, "broadcast"),
        ({"ids": np.array(["a", None], dtype=object)}, "objects"),
    ],
)
def test_a_strangers_maps_are_refused_with_one_error_that_names_the_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"epoch_000000\.npz to be as dynalens writes it, got .*{message}"):
        load_explanations(tmp_path)


def test_files_of_other_names_are_no_epochs(tmp_path: Path) -> None:
    written(tmp_path)
    written(tmp_path, name="epoch_best")
    assert [epoch.epoch for epoch in load_explanations(tmp_path)] == [0]


def test_samples_of_the_training_set_keep_their_ids(tmp_path: Path) -> None:
    fit(tmp_path / "given", monitor(samples=[3, 5]), max_epochs=1)
    assert load_explanations(tmp_path / "given")[0].ids == [3, 5]
    fit(tmp_path / "first", TrainingDynamicsMonitor(), monitor(suspects=0), data=in_order, max_epochs=1)
    assert load_explanations(tmp_path / "first")[0].ids == [0, 1]


@pytest.mark.parametrize("every", [2, 3])
def test_the_first_epoch_is_explained_where_it_has_no_validation(tmp_path: Path, every: int) -> None:
    fit(tmp_path, monitor(), val=in_order, max_epochs=3, check_val_every_n_epoch=every)
    epochs = load_explanations(tmp_path)
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert len({tuple(epoch.ids) for epoch in epochs}) == 1


def test_a_validation_counted_in_steps_within_the_first_epoch_is_explained(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "check_val_every_n_epoch": None,
        "val_check_interval": 6,
        "max_epochs": 1,
    }  # 6 batches in an epoch
    fit(tmp_path / "six", monitor(), val=in_order, **options)
    assert load_explanations(tmp_path / "six")[0].ids == ["validation 0", "validation 1"]
    fit(tmp_path / "seven", monitor(), val=in_order, **(options | {"val_check_interval": 7}))
    assert str(load_explanations(tmp_path / "seven")[0].ids[0]).startswith("image ")


def test_a_fit_that_goes_on_explains_the_samples_of_an_earlier_version_by_name(tmp_path: Path) -> None:
    earlier = monitor()
    state = earlier.state_dict() | {"kept": (images()[:2], labels()[:2])}
    earlier.load_state_dict(state)
    fit(tmp_path, earlier, val=in_order, max_epochs=1)
    assert load_explanations(tmp_path)[0].ids == content_ids(images()[:2])


def test_small_gradients_are_kept_in_half_precision() -> None:
    maps = torch.tensor([[[1e-12, -3e-12]], [[0.0, 0.0]]])
    arrays = packed_maps("saliency", maps)
    assert arrays["saliency.maps"].dtype == np.float16
    np.testing.assert_allclose(arrays["saliency.maps"] * arrays["saliency.scales"][:, None, None], maps, rtol=1e-3)


def test_a_folder_without_explanations_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected `folder` to hold explanations/epoch"):
        load_explanations(tmp_path)
    fit(tmp_path / "run", monitor(name="own"), val=in_order, max_epochs=1)
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*own"):
        load_explanations(tmp_path / "run")
    assert len(load_explanations(tmp_path / "run" / "dynalens" / "own")) == 1


class Table(Classifier):
    """Takes rows of a table (N, 36)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0]), batch[1])


@pytest.mark.usefixtures("drawn")
def test_rows_of_a_table_are_shown_as_bars(tmp_path: Path) -> None:
    rows = TensorDataset(images().flatten(1), labels())
    fit(
        tmp_path, monitor(methods=("saliency", "input_x_gradient"), metrics=("deletion",), steps=2), model=Table(),
        data=lambda: loader(rows), val=lambda: loader(rows, shuffle=False), max_epochs=1,
    )  # fmt: skip
    assert load_explanations(tmp_path)[0].maps["input_x_gradient"].shape == (2, 36)
    assert list((tmp_path / "dynalens" / "pictures").rglob("*.jpg"))


def test_bars_go_up_and_down_from_the_line_of_zero() -> None:
    up, down = (200, 20, 30), (20, 60, 200)
    cell = bars_cell(np.array([1.0, -0.5, 0.0]), (30, 42), colours=(up, down))
    white = (255, 255, 255)
    assert [cell.getpixel((4, y)) for y in (10, 30)] == [up, white]
    assert [cell.getpixel((14, y)) for y in (10, 25, 38)] == [white, down, white]  # half as long


def test_the_longest_of_the_columns_that_share_a_pixel_is_drawn() -> None:
    heights = np.zeros(1000)
    heights[501] = 1.0
    cell = bars_cell(heights, (40, 20), colours=((1, 2, 3), (1, 2, 3)))
    assert (1, 2, 3) in {cell.getpixel((x, 5)) for x in range(40)}
    assert isinstance(cell, Image.Image)


def test_datasets_of_the_training_are_not_indexed_for_names(tmp_path: Path) -> None:
    class Counted(TensorDataset):
        reads = 0

        def __getitem__(self, i: int) -> tuple[Tensor, ...]:
            Counted.reads += 1
            return tuple(tensor[i] for tensor in self.tensors)

    x, y = dataset().tensors
    fit(tmp_path, monitor(), val=lambda: loader(Counted(x, y), shuffle=False), max_epochs=2)
    assert Counted.reads == N * 2 + 8  # two validations and the sanity check's two batches
