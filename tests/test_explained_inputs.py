"""Inputs of every form are explained, and what cannot be explained does not end a fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, load_explanations
from dynalens.attribution import explain, saliency
from dynalens.explanations.forms import explained_form, forward_of_form, model_form
from dynalens.explanations.selection import BalancedSelection
from dynalens.pictures import ExplanationRow, explanation_sheet
from training import Classifier, K, N, arrays_of, attribution_monitor, fit, images, in_order, labels, loader

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
BRIGHT = (images() * 20).clamp(0, 255).to(torch.uint8)


def explanation(tmp_path: Path, epoch: int) -> dict[str, np.ndarray]:
    return arrays_of(tmp_path / "dynalens" / "explanations" / f"epoch_{epoch:06d}.npz")


def explained_epochs(tmp_path: Path) -> int:
    return len(list((tmp_path / "dynalens" / "explanations").glob("*")))


class Module(Classifier):
    """Takes images and labels from anywhere in a batch; ``scale`` is the first thing that ``forward`` does."""

    def __init__(
        self, inputs: Any = 0, target: Any = 1, scale: Any = lambda x: x, net: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.inputs, self.target, self.scale, self.steps = inputs, target, scale, 0
        self.net: Any = net or self.net

    def forward(self, x: Tensor) -> Any:
        return self.net(self.scale(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        y = batch[self.target]
        return self.loss(self(batch[self.inputs]), y.argmax(1) if y.ndim == 2 else y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None


class Rows(Dataset[Any]):
    """One dict for each sample."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


def table() -> nn.Sequential:
    return nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, K))


def of_complex() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, K))


def volumes() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(16, K)
    )


COMPLEX = torch.complex(images(), images().flip(0))
FORMS: dict[str, tuple[Dataset[Any], dict[str, Any], dict[str, Any]]] = {
    "integers": (TensorDataset(BRIGHT, labels()), {"scale": lambda x: x.float() / 255}, {}),
    "complex numbers": (TensorDataset(COMPLEX, labels()), {"scale": torch.abs, "net": of_complex()}, {}),
    "one-hot labels": (TensorDataset(images(), F.one_hot(labels(), K)), {}, {}),
    "a domain behind the label": (TensorDataset(images(), labels(), labels().flip(0)), {}, {}),
    "a mask before the images": (
        Rows(mask=torch.rand(N, 1, 6, 6), kind=labels(), scans=images(), meta=torch.rand(N)),
        {"inputs": "scans", "target": "kind"}, {},
    ),
    "rows of a table": (
        TensorDataset(images().flatten(1), labels()), {"net": table()}, {"methods": ("saliency", "input_x_gradient")},
    ),
    "volumes": (TensorDataset(torch.rand(N, 1, 4, 6, 6), labels()), {"net": volumes()}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("data", "model", "arguments"), FORMS.values(), ids=FORMS.keys())
def test_inputs_of_every_form_are_explained_with_both_callbacks(
    tmp_path: Path, data: Dataset[Any], model: dict[str, Any], arguments: dict[str, Any]
) -> None:
    monitor = attribution_monitor(num_samples=2, suspects=2, steps=2, on_error="raise", **arguments)
    fit(
        tmp_path, TrainingDynamicsMonitor(top_k=2), monitor, model=Module(**model), data=lambda: loader(data),
        val=lambda: loader(data, shuffle=False), max_epochs=2,
    )  # fmt: skip
    written = explanation(tmp_path, 1)
    assert written["labels"].tolist() == labels()[:2].tolist()
    assert len(written["suspects_label.labels"]) == 2
    assert list((tmp_path / "dynalens" / "pictures" / "dynalens" / "explanations").rglob("*.jpg"))


@pytest.mark.parametrize("validates", [True, False], ids=["from validation", "from training"])
def test_the_attribution_monitor_alone_reads_batches_of_any_order(tmp_path: Path, validates: bool) -> None:
    data = Rows(mask=torch.rand(N, 1, 6, 6), kind=labels(), scans=images(), meta=torch.rand(N))

    def batches() -> DataLoader[Any]:
        return loader(data, shuffle=False)

    model = Module("scans", "kind")
    monitor = attribution_monitor(num_samples=2, steps=2, on_error="raise")
    fit(tmp_path, monitor, model=model, data=batches, max_epochs=1, val=batches if validates else None)
    written = explanation(tmp_path, 0)
    assert written["labels"].tolist() == labels()[:2].tolist()
    np.testing.assert_allclose(written["logits"], model.eval()(images()[:2]).detach(), rtol=1e-5)


RENUMBERED: dict[str, Any] = {
    "from 1": lambda y: y - 1,
    "by a table": lambda y: torch.tensor([0, 2, 0, 1])[y],
    "by a list": lambda y: torch.tensor([[0, 2, 0, 1][i] for i in y.tolist()]),
}


@pytest.mark.parametrize("classes_of", RENUMBERED.values(), ids=RENUMBERED.keys())
def test_labels_that_a_step_gives_other_numbers_are_told_and_the_advice_works(tmp_path: Path, classes_of: Any) -> None:
    class Renumbers(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), classes_of(batch[1]))

    def fitted(folder: Path, **arguments: Any) -> None:
        data = TensorDataset(images(), labels() + 1)
        fit(
            folder, attribution_monitor(num_samples=3, steps=2, **arguments), model=Renumbers(), max_epochs=1,
            data=lambda: loader(data, batch_size=8), val=lambda: loader(data, shuffle=False),
        )  # fmt: skip

    with pytest.warns(UserWarning, match=r"gives other numbers.*Pass `inputs=` with a callable\(batch\)"):
        fitted(tmp_path)
    fitted(tmp_path / "advised", inputs=lambda batch: (batch[0], classes_of(batch[1])), on_error="raise")
    shown = explanation(tmp_path / "advised", 0)["labels"].tolist()
    assert shown == classes_of(labels()[:3] + 1).tolist()


def test_complex_inputs_are_explained_by_real_and_imaginary_parts() -> None:
    # logit 0 is 3 Re x - 2 Im y; its gradient by (Re x, Re y, Im x, Im y) is (3, 0, 0, -2)
    inputs = torch.tensor([[[1 + 2j]], [[3 - 1j]]]).view(1, 2, 1)

    def forward(z: Tensor) -> Tensor:
        first = 3 * z[:, 0].real - 2 * z[:, 1].imag
        return torch.cat([first, torch.zeros_like(first)], dim=1)

    maps = saliency(nn.Identity(), explained_form(inputs), torch.tensor([0]), forward=forward_of_form(forward, inputs))
    assert maps.flatten().tolist() == [3.0, 0.0, 0.0, -2.0]
    assert torch.equal(model_form(explained_form(inputs), inputs), inputs)


def test_the_map_of_a_row_has_one_relevance_for_each_column() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0]])
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[5.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    maps = explain(
        model, explained_form(rows), torch.tensor([0]), methods="input_x_gradient", forward=forward_of_form(model, rows)
    ).maps["input_x_gradient"]
    assert maps.tolist() == [[[5.0, -2.0, 0.0]]]


@contextmanager
def one_warning(match: str) -> Iterator[None]:
    with pytest.warns(UserWarning, match=match) as caught:
        yield
    assert len([w for w in caught if "training goes on" in str(w.message)]) == 1


class ByDtype(Module):
    """Scales integers only: floating copies of images have other logits."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x.float() / 255 if x.dtype == torch.uint8 else x)


class Regression(Module):
    """Of one number, or of several."""

    def __init__(self, numbers: int = 1) -> None:
        super().__init__(net=nn.Sequential(nn.Flatten(), nn.Linear(36, numbers)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return self.loss(self(batch[0]), batch[1])

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits if y.ndim == 2 else logits.squeeze(1), y.float())


class Tagger(Module):
    """Gives a class to each token (N, T)."""

    def __init__(self) -> None:
        super().__init__(net=nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, K)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        return F.cross_entropy(self(batch["tokens"]).flatten(0, 1), batch["tags"].flatten())


class Language(Tagger):
    """Predicts the next token."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        tokens = batch["tokens"]
        return F.cross_entropy(self(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten() % K)


FRACTIONS = torch.rand(N, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 9, (N, 5), generator=torch.Generator().manual_seed(2))
UNREADABLE: dict[str, tuple[Any, Dataset[Any], str]] = {
    "a regression": (
        Regression, TensorDataset(images(), FRACTIONS * 2), "fractions, as a regression .*`forward=`",
    ),
    "a regression of fractions": (
        Regression, TensorDataset(images(), FRACTIONS), "fractions, as a regression .*`forward=`",
    ),
    "a regression of a column": (
        Regression, TensorDataset(images(), FRACTIONS[:, None]), "fractions, as a regression .*`forward=`",
    ),
    "a regression of integers": (
        Regression, TensorDataset(images(), (FRACTIONS * 90).long()), "numbers, as a regression .*`forward=`",
    ),
    "a regression of boxes": (
        lambda: Regression(4), TensorDataset(images(), torch.rand(N, 4)), "fractions, as a regression .*`forward=`",
    ),
    "a regression of rows of integers": (
        lambda: Regression(2), TensorDataset(images(), (torch.rand(N, 2) * 90).long()), "rows .*`forward=`",
    ),
    "a language model": (Language, Rows(tokens=TOKENS, mask=TOKENS > 0), "one label .*`inputs=`.*`forward=`"),
    "integers that the model scales by dtype": (
        ByDtype, TensorDataset(BRIGHT, labels()), "the same logits for .*floating copies of them.*Pass `inputs=`",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "data", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_inputs_that_cannot_be_explained_are_warned_of_once_and_training_goes_on(
    tmp_path: Path, model: Any, data: Dataset[Any], message: str
) -> None:
    with one_warning(message):
        module = fit(
            tmp_path, attribution_monitor(steps=2), model=model(), data=lambda: loader(data),
            val=lambda: loader(data, shuffle=False), max_epochs=2,
        )  # fmt: skip
    assert module.steps == 12
    assert not explained_epochs(tmp_path)


HELPED: dict[str, tuple[Any, Dataset[Any], dict[str, Any]]] = {
    "a regression": (
        Regression, TensorDataset(images(), FRACTIONS),
        {
            "inputs": lambda batch: (batch[0], torch.zeros(len(batch[0]), dtype=torch.int64)),
            "forward": lambda module, x: torch.cat([module(x), torch.zeros(len(x), 1)], dim=1),
        },
    ),
    "tags of tokens": (
        Tagger, Rows(tokens=TOKENS, tags=TOKENS % K),
        {
            "inputs": lambda batch: (batch["tokens"], batch["tags"][:, 2]),
            "forward": lambda module, tokens: module(tokens)[:, 2],
        },
    ),
    "a language model": (
        Language, Rows(tokens=TOKENS, mask=TOKENS > 0),
        {
            "inputs": lambda batch: (batch["tokens"], batch["tokens"][:, -1] % K),
            "forward": lambda module, tokens: module(tokens)[:, -2],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("samples", [None, [4, 2]], ids=["of validation", "by id"])
@pytest.mark.parametrize(("model", "data", "arguments"), HELPED.values(), ids=HELPED.keys())
def test_the_advice_of_errors_explains_models_that_classify_no_samples(
    tmp_path: Path, model: Any, data: Dataset[Any], arguments: dict[str, Any], samples: Any
) -> None:
    monitor = attribution_monitor(
        methods="saliency", metrics=(), num_samples=2, samples=samples, on_error="raise", **arguments
    )
    fit(
        tmp_path, monitor, model=model(), data=lambda: loader(data), val=lambda: loader(data, shuffle=False),
        max_epochs=1,
    )  # fmt: skip
    assert len(explanation(tmp_path, 0)["saliency.maps"]) == 2


def test_samples_of_a_regression_that_are_chosen_by_id_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    with one_warning("fractions, as a regression .*`forward=`"):
        fit(
            tmp_path, attribution_monitor(samples=[1, 2]), model=Regression(), max_epochs=1,
            data=lambda: loader(TensorDataset(images(), FRACTIONS)),
        )  # fmt: skip


@pytest.mark.parametrize("numbers", [FRACTIONS[:3], torch.rand(3, 4), TOKENS[:3]], ids=["numbers", "boxes", "tags"])
def test_given_samples_whose_labels_are_no_classes_are_refused(numbers: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected `samples` to be images with a class each, got .*`forward=`"):
        attribution_monitor(samples=(images()[:3], numbers))


def test_zeros_and_ones_of_a_loss_of_numbers_are_told_before_the_first_map(tmp_path: Path) -> None:
    data = TensorDataset(images(), (labels() > 0).long())
    with pytest.warns(UserWarning, match="takes labels as classes and outputs as their logits") as caught:
        fit(
            tmp_path, attribution_monitor(methods="saliency", metrics=()), model=Regression(), max_epochs=2,
            data=lambda: loader(data), val=lambda: loader(data, shuffle=False),
        )  # fmt: skip
    assert len([w for w in caught if "takes labels as classes" in str(w.message)]) == 1


def test_classes_that_a_sum_of_squares_compares_by_class_are_explained_without_a_word(tmp_path: Path) -> None:
    class LeastSquares(Module):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(logits, F.one_hot(y, K).float())

    monitor = attribution_monitor(methods="saliency", metrics=(), num_samples=2, on_error="raise")
    fit(tmp_path, monitor, model=LeastSquares(), val=in_order, max_epochs=1)
    assert explanation(tmp_path, 0)["labels"].tolist() == labels()[:2].tolist()


def test_embeddings_are_told_before_the_first_map(tmp_path: Path) -> None:
    class Embeds(Module):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            distances, is_same = torch.cdist(logits, logits), (y[:, None] == y).float()
            return (is_same * distances + (1 - is_same) * (1 - distances).clamp(min=0)).mean()

    with pytest.warns(UserWarning, match="takes labels as classes and outputs as their logits.*embeddings"):
        fit(
            tmp_path, attribution_monitor(methods="saliency", metrics=(), num_samples=2), model=Embeds(),
            val=in_order, max_epochs=1,
        )  # fmt: skip


def test_a_key_that_the_batch_lacks_does_not_end_the_fit(tmp_path: Path) -> None:
    with one_warning("KeyError"):
        model = fit(
            tmp_path, attribution_monitor(inputs=("image", "label")), model=Module("scan", "kind"), max_epochs=1,
            data=lambda: loader(Rows(scan=images(), kind=labels())),
        )  # fmt: skip
    assert model.steps == 6


def test_a_binary_loss_with_floating_targets_is_explained(tmp_path: Path) -> None:
    class Binary(Regression):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(logits.squeeze(1), y)

    data = TensorDataset(images(), (labels() > 0).float())
    monitor = attribution_monitor(num_samples=2, steps=2, methods="saliency", on_error="raise")
    fit(tmp_path, monitor, model=Binary(), data=lambda: loader(data), val=lambda: loader(data, shuffle=False))
    assert explanation(tmp_path, 2)["labels"].tolist() == [0, 1]


def test_floating_targets_without_a_classification_loss_are_told(tmp_path: Path) -> None:
    data = TensorDataset(images(), (labels() > 0).float())
    with pytest.warns(UserWarning, match="takes labels as classes and outputs as their logits"):
        fit(
            tmp_path, attribution_monitor(methods="saliency", steps=2), model=Regression(), max_epochs=1,
            data=lambda: loader(data), val=lambda: loader(data, shuffle=False),
        )  # fmt: skip


@pytest.mark.parametrize("target", ["label", "prediction"])
def test_samples_whose_label_the_loss_ignores_are_left_out(tmp_path: Path, target: Any) -> None:
    y = labels().clone()
    y[1] = -100
    data = TensorDataset(images(), y)
    monitor = attribution_monitor(num_samples=3, steps=2, target=target, on_error="raise")
    fit(tmp_path, monitor, model=Module(), data=lambda: loader(data), val=lambda: loader(data, shuffle=False))
    assert explanation(tmp_path, 2)["labels"].tolist() == y[[0, 2, 4]].tolist()  # a class each


def test_given_samples_without_a_class_are_left_out(tmp_path: Path) -> None:
    monitor = attribution_monitor(samples=(images()[:3], torch.tensor([0, -100, 2])), steps=2, on_error="raise")
    fit(tmp_path, monitor, max_epochs=1)
    assert explanation(tmp_path, 0)["labels"].tolist() == [0, 2]


def test_a_method_that_fails_is_left_out_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, K))
    with one_warning("grad_cam is left out of the explanations, training goes on: ValueError: Expected a model with"):
        monitor = attribution_monitor(methods=("grad_cam", "saliency"), steps=2, num_samples=2)
        fit(tmp_path, monitor, model=Module(net=net), val=in_order)
    assert explained_epochs(tmp_path) == 3
    assert "saliency.deletion.values" in explanation(tmp_path, 2)
    with pytest.raises(ValueError, match="Expected a model with feature maps"):
        fit(
            tmp_path / "b",
            attribution_monitor(methods=("grad_cam", "saliency"), on_error="raise"),
            model=Module(net=net),
            val=in_order,
        )


def test_the_defaults_leave_out_what_a_model_does_not_have_without_a_warning(tmp_path: Path) -> None:
    mlp = Module(net=nn.Sequential(nn.Flatten(), nn.Linear(36, K)))
    fit(tmp_path, AttributionMonitor(max_overhead=None, on_error="raise"), model=mlp, max_epochs=1)
    assert set(load_explanations(tmp_path)[0].maps) == {"saliency"}


def test_a_default_method_that_is_given_an_argument_is_not_left_out(tmp_path: Path) -> None:
    class OnePlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, K)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.convolution(x)[:, :, 1, 1])

    arguments = {"grad_cam": {"target_layer": "net.convolution"}}
    fit(
        tmp_path,
        AttributionMonitor(method_args=arguments, max_overhead=None),
        model=Module(net=OnePlace()),
        max_epochs=1,
    )
    assert set(load_explanations(tmp_path)[0].maps) == {"saliency", "grad_cam"}


def test_a_metric_that_fails_is_left_out_alone(tmp_path: Path) -> None:
    def unknown(images: Tensor) -> Tensor:
        raise OSError("no baseline")

    metrics = ("deletion", "average_drop", "attribution_drift")
    with one_warning("deletion is left out of the explanations, training goes on: OSError: no baseline"):
        fit(
            tmp_path,
            attribution_monitor(baseline=unknown, metrics=metrics, num_samples=2),
            model=Module(),
            val=in_order,
        )
    assert "saliency.deletion.values" not in explanation(tmp_path, 2)
    assert {"saliency.average_drop.values", "saliency.attribution_drift.values"} <= set(explanation(tmp_path, 2))


class Refuses(TensorBoardLogger):
    def log_image(self, **image: Any) -> None:
        raise ConnectionError("offline")


class Accepts(TensorBoardLogger):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.keys: list[str] = []

    def log_image(self, key: str, images: Any, step: int) -> None:
        self.keys.append(key)


def test_a_logger_that_refuses_pictures_switches_off_itself_alone(tmp_path: Path) -> None:
    loggers = [Refuses(tmp_path, name="refuses"), Accepts(tmp_path, name="accepts")]
    monitor = attribution_monitor(num_samples=2, steps=2, name="x")
    with one_warning("Pictures for Refuses are switched off, training goes on: ConnectionError: offline"):
        fit(tmp_path, monitor, model=Module(), val=in_order, logger=loggers)
    sheets = [key for key in loggers[1].keys if "explanations" in key]  # type: ignore[attr-defined]  # the second
    assert len(sheets) == 3
    assert len(list(tmp_path.rglob("explanations/*.npz"))) == 3


def test_samples_are_spread_over_the_classes_of_a_sorted_validation_set(tmp_path: Path) -> None:
    order = labels().argsort(stable=True)
    data = TensorDataset(images()[order], labels()[order])
    monitor = attribution_monitor(num_samples=4, steps=2, on_error="raise")
    fit(tmp_path, monitor, model=Module(), val=lambda: loader(data, shuffle=False))
    for epoch in range(3):
        assert sorted(np.bincount(explanation(tmp_path, epoch)["labels"])) == [1, 1, 2]


def test_a_selection_takes_samples_of_one_shape() -> None:
    selection = BalancedSelection(2)
    assert selection.result() is None
    assert selection.offer(torch.zeros(1, 1, 2, 2), [0], str) == {"0": 0}
    assert selection.offer(torch.zeros(1, 1, 3, 3), [1], str) == {}
    assert selection.ids == ["0"]


def test_a_selection_is_as_even_as_its_stream() -> None:
    selection = BalancedSelection(4)
    for batch in ([0, 0, 0, -1], [0, 0, 1, 0], [1, 2, 0], [3]):
        assert not selection.complete
        selection.offer(torch.zeros(len(batch), 1), batch, lambda row: row)
    kept = selection.result()
    assert kept is not None
    assert kept[1].tolist() == [0, 1, 2, 3]
    assert selection.ids == [0, 2, 1, 0]  # their places in their batches
    assert selection.complete


def test_the_two_rows_of_a_suspect_have_different_captions_within_the_card() -> None:
    def sheet(explained_for: str) -> Image.Image:
        row = ExplanationRow(
            np.zeros((6, 6, 3), np.uint8), "tabby cat", "golden retriever", 0.03, {"saliency": np.zeros((6, 6))},
            is_correct=False, note="sample 12", explained_for=explained_for,
        )  # fmt: skip
        return explanation_sheet([row], fractions=np.linspace(0, 1, 2), title="")

    given, predicted, plain = (np.asarray(sheet(which)) for which in ("label", "prediction", ""))
    left = slice(0, given.shape[1] // 2)  # what tells them apart stands where nothing is cut off
    assert (given[:, left] != predicted[:, left]).any()
    assert (given[:, left] != plain[:, left]).any()
