"""Concepts of a layer: TCAV against gradients and fits of its own, dissection against its definition."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from scipy.stats import ttest_ind
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dynalens import ConceptMonitor, LayerMonitor, dissect, dissection_sheet, tcav
from dynalens.concepts.tcav import p_value
from test_undisturbed_training import differences, final_state, run
from toys import SmallCNN
from training import attribution_monitor, fit


def drawn(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) + shift


def network() -> nn.Module:
    torch.manual_seed(5)
    return SmallCNN().eval()


def slow_scores(model: nn.Module, images: Tensor, target: int, one: Tensor, other: Tensor) -> float:
    """Fraction of images whose logit grows along the vector, with the gradient of one image at a time."""
    assert isinstance(model, SmallCNN)

    def layer(x: Tensor) -> Tensor:
        out: Tensor = model.pool(model.norm(model.conv(x)).relu())
        return out

    with torch.no_grad():
        features = np.concatenate([layer(each).flatten(1).numpy() for each in (one, other)])
    labels = np.repeat([0, 1], [len(one), len(other)])
    train = np.concatenate([np.arange(len(each)) % 3 != 2 for each in (one, other)])
    direction = -LogisticRegression(max_iter=1000).fit(features[train], labels[train]).coef_[0]
    rises = []
    for image in images:
        h = layer(image[None]).detach().requires_grad_()
        gradient = torch.autograd.grad(model.head(h.flatten(1))[0, target], h)[0]
        rises.append(float(gradient.flatten() @ torch.from_numpy(direction).float()) > 0)
    return float(np.mean(rises))


def test_scores_are_the_fraction_of_gradients_along_the_vector_and_the_control_uses_random_sets() -> None:
    model, images, pool = network(), drawn(40, 1), drawn(30, 2)
    concepts = {"bright": drawn(9, 3, 1.0), "dark": drawn(7, 4, -1.0)}
    table = tcav(model, images, 1, concepts, pool, layer="pool", runs=3, seed=6)
    generator = torch.Generator().manual_seed(6)
    randoms = [pool[torch.randperm(30, generator=generator)[:9]] for _ in range(4)]
    control = [slow_scores(model, images, 1, randoms[0], each) for each in randoms[1:]]
    assert table.index.tolist() == ["bright", "dark"]
    for name, examples in concepts.items():
        scores = [slow_scores(model, images, 1, examples, each) for each in randoms[1:]]
        assert table.loc[name, "score"] == pytest.approx(np.mean(scores))
        assert table.loc[name, "random"] == pytest.approx(np.mean(control))
        assert table.loc[name, "p_value"] == pytest.approx(p_value(scores, control))


def test_a_backbone_without_gradients_has_the_scores_of_the_function_it_computes() -> None:
    class Frozen(SmallCNN):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.pool(self.act(self.norm(self.conv(x))))
            logits: Tensor = self.head(x.flatten(1))
            return logits

    images, pool, concepts = drawn(20, 1), drawn(30, 2), {"bright": drawn(9, 3, 1.0)}
    frozen = Frozen().eval()
    frozen.load_state_dict(network().state_dict())
    tables = [tcav(model, images, 1, concepts, pool, layer="conv", runs=3) for model in (network(), frozen)]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_p_values_are_those_of_welchs_test() -> None:
    one, other = [0.9, 0.8, 1.0], [0.4, 0.6, 0.5]
    assert p_value(one, other) == pytest.approx(ttest_ind(one, other, equal_var=False).pvalue)
    assert p_value([1.0, 1.0, 1.0], other) < 0.05


def test_a_concept_that_a_class_is_made_of_scores_one_and_its_opposite_zero() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    model[1].weight.data = torch.stack([torch.ones(36), -torch.ones(36)])
    concepts = {"bright": drawn(12, 3, 3.0), "dark": drawn(12, 4, -3.0)}
    table = tcav(model, drawn(5, 1), 0, concepts, drawn(60, 2), layer="0", runs=6)
    assert table["score"].tolist() == [1.0, 0.0]
    assert table["accuracy"].tolist() == [1.0, 1.0]


def test_folders_are_read_with_the_transform(tmp_path: Path) -> None:
    examples = (drawn(4, 3).clamp(0, 1) * 255).round()
    for number, image in enumerate(examples):
        Image.fromarray(image[0].numpy().astype(np.uint8)).save(tmp_path / f"{number}.png")

    def transform(picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32))[None] / 255

    options: dict[str, Any] = {"layer": "pool", "runs": 2}
    model, images, pool = network(), drawn(4, 1), drawn(9, 2)
    of_folder = tcav(model, images, 0, {"a": tmp_path}, pool, transform=transform, **options)
    assert of_folder.equals(tcav(model, images, 0, {"a": examples / 255}, pool, **options))
    with pytest.raises(ValueError, match="Expected `transform` for the folder of 'a'"):
        tcav(model, images, 0, {"a": tmp_path}, pool, **options)
    with pytest.raises(ValueError, match="Expected pictures of the concept 'a'"):
        tcav(model, images, 0, {"a": tmp_path / "none"}, pool, transform=transform, **options)


def test_a_model_that_leaves_torch_before_the_layer_has_the_scores_of_one_that_does_not() -> None:
    class ByNumpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Any:
            return self.net(torch.from_numpy(x.numpy()))

    options: dict[str, Any] = {"concepts": {"a": drawn(4, 3)}, "random": drawn(9, 2), "runs": 2}
    of_torch = tcav(network(), drawn(4, 1), 0, layer="pool", **options)
    assert tcav(ByNumpy(), drawn(4, 1), 0, layer="net.pool", **options).equals(of_torch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concepts": {}}, "at least one concept"),
        ({"runs": 1}, "two runs"),
        ({"random": drawn(3, 2)}, "Expected `random` to have at least 4"),
        ({"concepts": {"a": drawn(1, 3)}}, "at least two floating images"),
        ({"layer": "nothing"}, "Expected `layer` to name a layer"),
    ],
)
def test_wrong_arguments_of_tcav_are_refused(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"concepts": {"a": drawn(4, 3)}, "random": drawn(9, 2), "layer": "pool", "runs": 2}
    with pytest.raises(ValueError, match=message):
        tcav(network(), drawn(4, 1), 0, **(options | change))


def slow_iou(maps: Tensor, mask: Tensor, top: float) -> float:
    """Of one channel: threshold, bilinear enlargement by torch, and counting."""
    threshold = np.quantile(maps.numpy(), 1 - top)
    large = nn.functional.interpolate(maps[:, None], size=mask.shape[1:], mode="bilinear")[:, 0]
    inside = either = 0
    for active, present in zip((large > float(threshold)).flatten().tolist(), mask.flatten().tolist(), strict=True):
        inside += active and present
        either += active or present
    return inside / either


def test_dissection_is_the_intersection_over_the_union_of_all_images() -> None:
    model, images = network(), drawn(5, 1)
    masks = {"left": torch.zeros(5, 6, 6), "some": (drawn(5, 2)[:, 0] > 0.5).long()}
    masks["left"][:, :, :3] = 1
    result = dissect(model, images, masks, layer="conv", top=0.2)
    with torch.no_grad():
        assert isinstance(model, SmallCNN)
        maps = model.conv(images)
    expected = [[slow_iou(maps[:, c], mask != 0, 0.2) for mask in masks.values()] for c in range(4)]
    np.testing.assert_allclose(result.iou, expected)
    table = result.detectors(least=0.0)
    assert table["iou"].is_monotonic_decreasing
    assert table.loc[0, "iou"] == pytest.approx(np.max(expected))
    assert dissection_sheet(result, images, "title").height > 4 * 100
    with pytest.raises(ValueError, match="Expected `masks` of shape"):
        dissect(model, images, {"a": torch.zeros(5, 3, 3)}, layer="conv")
    with pytest.raises(ValueError, match="Expected `images` to hold at least one image"):
        dissect(model, images[:0], {"a": torch.zeros(0, 6, 6)}, layer="conv")
    with pytest.raises(ValueError, match="Expected `top` in"):
        dissect(model, images, masks, layer="conv", top=1.0)


def monitor(**options: Any) -> ConceptMonitor:
    samples = drawn(6, 1), torch.tensor([0, 0, 0, 2, 2, 2])
    concepts = {"bright": drawn(5, 3, 1.0)}
    masks = {"left": torch.ones(6, 6, 6)}
    defaults: dict[str, Any] = {"concepts": concepts, "random": drawn(9, 2), "runs": 2, "masks": masks, "top": 0.2}
    defaults["max_overhead"] = None
    return ConceptMonitor(**({"layer": "net.1", "samples": samples, "on_error": "raise"} | defaults | options))


def test_a_monitor_logs_what_the_functions_return_for_each_epoch(tmp_path: Path) -> None:
    model = fit(tmp_path, monitor(), max_epochs=2, logger=TensorBoardLogger(tmp_path, name="run"))
    events = EventAccumulator(str(tmp_path / "run" / "version_0"))
    events.Reload()
    concept = "dynalens/concepts/bright"
    assert len(events.Scalars(f"{concept}/0/score")) == 2
    for label, rows in ((0, slice(0, 3)), (2, slice(3, 6))):
        table = tcav(model, drawn(6, 1)[rows], label, {"bright": drawn(5, 3, 1.0)}, drawn(9, 2), layer="net.1", runs=2)
        for number in ("score", "random", "p_value", "accuracy"):
            logged = events.Scalars(f"{concept}/{label}/{number}")[-1].value
            assert logged == pytest.approx(table[number].tolist()[0], abs=1e-6)
    assert len(events.Images("dynalens/concepts/dissection")) == 2


def test_names_of_concepts_may_have_any_letters(tmp_path: Path) -> None:
    name, images, masks = "caf\udce9\x1b", drawn(12, 1), torch.rand(12, 6, 6) > 0.5
    table = tcav(network(), images, 1, {name: images[:4]}, images[4:], layer="pool", runs=2)
    dissection = dissect(network(), images, {name: masks}, layer="conv")
    assert [*table.index] == [*dissection.concepts] == ["caf\\udce9\x1b"]
    assert dissection_sheet(dissection, images, "title").width
    fit(tmp_path, monitor(concepts={name: images[:4]}, masks={name: masks}, samples=(images, torch.arange(12) % 3)))


def test_a_fit_with_concepts_ends_as_without(tmp_path: Path) -> None:
    plain = final_state(*run(tmp_path / "a", [], manual=False, error=None))
    watched = final_state(*run(tmp_path / "b", [monitor(layer="net.6")], manual=False, error=None))
    assert differences(plain, watched) == []


def fails(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Draw random numbers, run in another mode, and fail."""
    model.train()(images + torch.rand(()))
    raise RuntimeError("on purpose")


@pytest.mark.filterwarnings("ignore:.* is left out of the explanations")
def test_a_fit_in_which_concepts_and_robustness_fail_ends_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_step(run: Any, image: torch.Tensor, *_: Any) -> Any:
        return fails(run, image)

    monkeypatch.setattr("dynalens.robustness.attacks._smallest", no_step)
    maps = attribution_monitor(methods="saliency", metrics=(), robustness=("fgsm",), num_samples=2)
    concepts = monitor(layer="net.6", forward=fails, on_error="warn")
    plain = final_state(*run(tmp_path / "a", [], manual=False, error=None))
    with pytest.warns(UserWarning, match="Concepts are switched off, training goes on: RuntimeError: on purpose"):
        watched = final_state(*run(tmp_path / "b", [concepts, maps], manual=False, error=None))
    assert differences(plain, watched) == []


def test_a_fit_in_which_pictures_of_a_layer_fail_ends_as_without(tmp_path: Path) -> None:
    layers = LayerMonitor(layer="net.0", feature_maps=2, forward=fails, on_error="warn")
    plain = final_state(*run(tmp_path / "a", [], manual=False, error=None))
    with pytest.warns(UserWarning, match=r"switched off, training goes on: RuntimeError: on purpose"):
        watched = final_state(*run(tmp_path / "b", [layers], manual=False, error=None))
    assert differences(plain, watched) == []


def test_a_disk_that_stays_full_is_said_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def image(self, *_: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("dynalens.callbacks.concepts.sink_of", lambda *_: Full())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, monitor(on_error="warn"), max_epochs=2)
    messages = [str(each.message) for each in caught if "No space left" in str(each.message)]
    assert len(messages) == 2
    assert "Missing or old: pictures. Make room on the disk before the next fit." in messages[1]


def saved_pictures(folder: Path, *names: str, side: int = 6) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), 255, np.uint8)).save(folder / name)
    return folder


def test_folders_of_samples_and_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def tensor(picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(picture, dtype=np.float32))[None]

    samples = saved_pictures(tmp_path / "samples", "cat/1.png", "dog/1.png")
    options: dict[str, Any] = {"concepts": None, "transform": tensor}
    half = saved_pictures(tmp_path / "half", "cat/1.jpg")
    whole = saved_pictures(saved_pictures(tmp_path / "whole", "cat/1.png"), "dog/1.png", side=9)
    numbers = saved_pictures(tmp_path / "numbers", "1/1.png", "2/1.png", "10/1.png")
    for change, message in (
        ({"samples": samples, "masks": {"fur": half}}, "Expected a mask of 'fur' for each sample .* none for dog/1"),
        ({"samples": samples, "masks": {"fur": whole}}, "Expected masks of 'fur' of one size"),
        ({"samples": whole, "masks": {"fur": whole}}, "Expected `transform` to turn .* into tensors of one shape"),
        ({"masks": {"fur": half}}, "Expected `samples` to be a folder, because `masks` are in the folder"),
        ({"samples": numbers, "masks": {"fur": half}}, "classes 0, 1, .* got '1' at another place"),
        ({"samples": tmp_path / "none", "masks": {"fur": half}}, "a folder of pictures for each class, got none in"),
    ):
        with pytest.raises(ValueError, match=message):
            monitor(**(options | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concepts": None, "masks": None}, "Expected `concepts` or `masks`"),
        ({"random": None}, "Expected `random` images"),
        ({"samples": (drawn(6, 1), torch.zeros(5))}, "Expected `samples` to be images and a class for each"),
        ({"masks": {"a": torch.zeros(2, 6, 6)}}, "Expected `masks` of shape"),
    ],
)
def test_wrong_arguments_of_the_monitor_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        monitor(**change)


def test_a_layer_that_is_not_there_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected `layer` to name a layer"):
        fit(tmp_path, monitor(layer="nothing"), max_epochs=1)
