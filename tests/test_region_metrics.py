"""Metrics that know where the object is, and metrics under noise, in the callback."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynalens import (
    TrainingDynamicsMonitor,
    explain,
    infidelity,
    load_explanations,
    local_fidelity,
    pixel_relevance,
    pointing_game,
    relevance_mass,
    sensitivity_max,
)
from dynalens.explanations.regions import masks_for
from dynalens.faithfulness import METRICS_UNDER_NOISE
from training import Classifier, N, attribution_monitor, fit, images, labels

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
MASKS = torch.rand(N, 6, 6, generator=torch.Generator().manual_seed(5)) > 0.6
BOXES = torch.tensor([[1, 1, 4, 5]]).repeat(N, 1)
LOCAL = ("pointing_game", "relevance_mass")


class Samples(Dataset[dict[str, Tensor]]):
    def __init__(self, **extra: Tensor) -> None:
        self.extra = extra

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"image": images()[i], "label": labels()[i]} | {name: of_all[i] for name, of_all in self.extra.items()}


class OfDicts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch["image"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None


def fitted(tmp_path: Path, data: Dataset[Any], *others: Any, val: bool = True, **arguments: Any) -> OfDicts:
    defaults: dict[str, Any] = {"methods": ("saliency", "grad_cam"), "num_samples": 3, "on_error": "raise"}
    monitor = attribution_monitor(**(defaults | arguments))
    model = fit(
        tmp_path, *others, monitor, model=OfDicts(), data=lambda: DataLoader(data, 4, shuffle=True), max_epochs=1,
        val=(lambda: DataLoader(data, 4)) if val else None,
    )  # fmt: skip
    assert isinstance(model, OfDicts)
    return model


def assert_measured(tmp_path: Path, model: Classifier, masks: Tensor, chosen: list[int]) -> None:
    (epoch,) = load_explanations(tmp_path)
    x, y = images()[chosen], labels()[chosen]
    assert epoch.labels.tolist() == y.tolist()
    for method, maps in explain(model, x, y, methods=("saliency", "grad_cam")).maps.items():
        relevance = pixel_relevance(method, maps, (6, 6))
        for name, function in (("pointing_game", pointing_game), ("relevance_mass", relevance_mass)):
            np.testing.assert_allclose(epoch.values[f"{method}/{name}"], function(relevance, masks[chosen]), rtol=1e-4)
    assert epoch.values["random/relevance_mass"].shape == (len(chosen),)


def test_masks_under_a_key_are_those_of_the_validation_samples(tmp_path: Path) -> None:
    model = fitted(tmp_path, Samples(mask=MASKS), metrics=LOCAL, masks="mask")
    assert_measured(tmp_path, model, MASKS, [0, 1, 2])


def test_boxes_are_those_of_training_samples_that_are_chosen_by_id(tmp_path: Path) -> None:
    model = fitted(tmp_path, Samples(box=BOXES), metrics=LOCAL, masks="box", samples=[4, 2], val=False)
    inside = torch.zeros(N, 6, 6, dtype=torch.bool)
    inside[:, 1:5, 1:4] = True
    assert_measured(tmp_path, model, inside, [4, 2])


def test_a_callable_finds_masks_of_the_first_training_batch_and_suspects_need_none(tmp_path: Path) -> None:
    fitted(
        tmp_path, Samples(mask=MASKS.unsqueeze(1).int()), TrainingDynamicsMonitor(), metrics=LOCAL, val=False,
        masks=lambda batch: batch["mask"], suspects=1,
    )  # fmt: skip
    (epoch,) = load_explanations(tmp_path)
    chosen = [int(sample) for sample in epoch.ids]
    mass = relevance_mass(torch.as_tensor(epoch.maps["saliency"]), MASKS[chosen])
    np.testing.assert_allclose(epoch.values["saliency/relevance_mass"], mass, rtol=1e-3)


def test_given_samples_have_given_masks(tmp_path: Path) -> None:
    samples = (images()[:2], labels()[:2])
    model = fitted(tmp_path, Samples(), metrics=LOCAL, samples=samples, masks=MASKS[:2], val=False)
    assert_measured(tmp_path, model, MASKS, [0, 1])


def test_a_resumed_fit_knows_the_masks_of_its_samples(tmp_path: Path) -> None:
    data = Samples(mask=MASKS)
    first = attribution_monitor(methods="saliency", metrics=LOCAL, masks="mask", num_samples=2, on_error="raise")
    options: dict[str, Any] = {"data": lambda: DataLoader(data, 4), "max_epochs": 1}
    torch.manual_seed(0)
    fit(tmp_path / "first", first, model=OfDicts(), val=lambda: DataLoader(data, 4), **options)
    second = attribution_monitor(methods="saliency", metrics=LOCAL, masks="mask", num_samples=2, on_error="raise")
    second.load_state_dict(first.state_dict() | {"next_epoch": 0})
    torch.manual_seed(0)
    fit(tmp_path / "second", second, model=OfDicts(), **options)
    before, after = (load_explanations(tmp_path / run)[0] for run in ("first", "second"))
    assert before.ids == after.ids
    np.testing.assert_allclose(after.values["saliency/relevance_mass"], before.values["saliency/relevance_mass"])


def test_masks_are_read_as_masks_or_boxes_of_the_images() -> None:
    x = torch.zeros(2, 3, 4, 6)
    assert masks_for(torch.ones(2, 4, 6), x).dtype is torch.bool
    several = masks_for([torch.tensor([[0, 0, 2, 1], [4, 3, 6, 4]]), torch.zeros(0, 4)], x)
    assert several.flatten(1).sum(dim=1).tolist() == [4, 0]
    assert masks_for(torch.ones(2, 5), torch.ones(2, 5, dtype=torch.int64)).shape == (2, 5)  # of tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "pointing_game"}, "Expected `masks` for the metrics pointing_game, got none"),
        ({"masks": MASKS}, "got a tensor without `samples"),
        ({"masks": "mask", "samples": (images()[:2], labels()[:2])}, "Expected `masks` of the given `samples`"),
        ({"masks": MASKS[:3], "samples": (images()[:2], labels()[:2])}, r"Expected `masks` of shape \(2, 6, 6\)"),
    ],
)
def test_masks_that_do_not_go_with_the_rest_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribution_monitor(**arguments)


@pytest.mark.parametrize(
    ("masks", "message"),
    [("masks", "got a dict with the keys .*mask"), (lambda batch: batch["mask"][:, :3], r"got \(4, 3, 6\)")],
)
def test_masks_that_are_not_there_are_said_once_and_training_goes_on(tmp_path: Path, masks: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=f"switched off, training goes on: ValueError: Expected .*{message}"):
        fitted(tmp_path, Samples(mask=MASKS), metrics=LOCAL, masks=masks, on_error="warn")


def test_metrics_under_noise_are_those_of_their_functions(tmp_path: Path) -> None:
    model = fitted(tmp_path, Samples(), metrics=METRICS_UNDER_NOISE, methods=("input_x_gradient", "grad_cam"))
    (epoch,) = load_explanations(tmp_path)
    x, y = images()[:3], labels()[:3]

    def maps(method: str) -> Any:
        return lambda images: explain(model, images, y, methods=method).maps[method]

    np.testing.assert_allclose(
        epoch.values["input_x_gradient/infidelity"],
        infidelity(model, x, y, maps("input_x_gradient")(x), normalize=True), rtol=1e-4,
    )  # fmt: skip
    assert epoch.values["random/infidelity"].shape == (3,)  # the control
    relevance = pixel_relevance("input_x_gradient", maps("input_x_gradient")(x), (6, 6))
    np.testing.assert_allclose(
        epoch.values["input_x_gradient/local_fidelity"], local_fidelity(model, x, y, relevance), rtol=1e-3
    )
    assert epoch.values["random/local_fidelity"].shape == (3,)
    assert "random/sensitivity" not in epoch.values  # a ranking that does not look at the image never changes
    for method in ("input_x_gradient", "grad_cam"):
        np.testing.assert_allclose(epoch.values[f"{method}/sensitivity"], sensitivity_max(maps(method), x), rtol=1e-3)


def test_a_metric_under_noise_that_fails_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Tensor:
        raise ValueError("no noise")

    monkeypatch.setattr("dynalens.explanations.noise.infidelity", fails)
    metrics = ("infidelity", "sensitivity", "deletion")
    with pytest.warns(UserWarning, match="infidelity is left out of the explanations, training goes on") as caught:
        fitted(tmp_path, Samples(), metrics=metrics, methods="saliency", on_error="warn")
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert {"saliency/sensitivity", "saliency/deletion"} <= set(load_explanations(tmp_path)[0].values)


def test_tokens_have_no_noise(tmp_path: Path) -> None:
    tokens = TensorDataset(torch.randint(0, 5, (N, 4)), labels())
    monitor = attribution_monitor(methods="saliency", metrics=("sensitivity",), on_error="raise")
    with pytest.raises(ValueError, match=r"defined for tokens.* got sensitivity"):
        fit(tmp_path, monitor, data=lambda: DataLoader(tokens, 4), model=OfTokens(), max_epochs=1)


class OfTokens(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Flatten(), torch.nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0]), batch[1])
