"""Influence over checkpoints: against closed forms of a linear layer, autograd, and what must be refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import (
    TrainingDynamicsMonitor,
    influence,
    influence_sheet,
    load_record,
    self_influence,
    show_in_report,
)
from dynalens.influences.last_layer import LastLayer
from dynalens.report import write_report
from test_undisturbed_training import differences
from training import Classifier, K, N, fit, images, labels

TEST = images(4) / N, torch.tensor([0, 1, 2, 0])


class Scaled(Classifier):
    """Sees its images as the training step does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def scaled() -> TensorDataset:
    return TensorDataset(images() / N, labels())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.LightningModule]:
    """Two epochs with a checkpoint of each, and ``last.ckpt``, which is the second once more."""
    folder = tmp_path_factory.mktemp("run")
    keeping = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, save_last=True)
    callbacks = [TrainingDynamicsMonitor(save_dir=folder / "dynalens"), keeping]
    return folder, fit(folder, *callbacks, model=Scaled(), max_epochs=2, enable_checkpointing=True)


def kept(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("checkpoints/epoch*.ckpt"))]


def last_layer_gradients(content: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's own loss at the last layer's weights, by autograd, one sample at a time."""
    model = Scaled()
    model.load_state_dict(content["state_dict"])
    gradients = []
    for row in range(len(x)):
        loss = F.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        gradients.append(torch.autograd.grad(loss, model.net[3].weight)[0].flatten())  # type: ignore[arg-type]  # a tensor
    return torch.stack(gradients)


def by_autograd(folder: Path, test: tuple[Tensor, Tensor]) -> Tensor:
    total = torch.zeros(len(test[0]), N)
    for content in kept(folder):
        rate = content["optimizer_states"][0]["param_groups"][0]["lr"]
        total += rate * last_layer_gradients(content, *test) @ last_layer_gradients(content, *scaled().tensors).T
    return total


def test_influence_is_the_sum_over_checkpoints_of_products_of_gradients(run: tuple[Path, Any]) -> None:
    folder, model = run
    before = torch.get_rng_state()
    result = influence(None, folder, model, scaled(), TEST, batch_size=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(torch.from_numpy(result.values), by_autograd(folder, TEST), rtol=1e-4, atol=1e-6)


def gradients_of(content: dict[str, Any], x: Tensor, y: Tensor, names: list[str]) -> Tensor:
    """As ``last_layer_gradients``, of the weights with these names."""
    model = Scaled()
    model.load_state_dict(content["state_dict"])
    weights = [dict(model.named_parameters())[name] for name in names]
    rows = []
    for row in range(len(x)):
        loss = F.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("all", ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]),
        (["net.0"], ["net.0.weight", "net.0.bias"]),
        (["net", "net.0"], ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]),
    ],
    ids=["all", "one", "one twice"],
)
def test_influence_by_layers_is_that_of_the_gradients_of_single_samples(
    run: tuple[Path, Any], layers: Any, names: list[str]
) -> None:
    folder, model = run
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = scaled().tensors
    total = torch.zeros(N, N)
    for content in kept(folder):
        rate = content["optimizer_states"][0]["param_groups"][0]["lr"]
        gradients = gradients_of(content, x, y, names)
        total += rate * gradients @ gradients.T
    result = influence(None, folder, model, scaled(), (x, y), layers=layers, batch_size=5)
    torch.testing.assert_close(torch.from_numpy(result.values), total, rtol=1e-4, atol=1e-6)
    scores = self_influence(None, folder, model, scaled(), layers=layers)
    np.testing.assert_allclose(scores, total.diagonal(), rtol=1e-4, atol=1e-6)
    assert differences(before, dict(model.state_dict())) == []


def test_layers_without_trained_weights_are_refused(run: tuple[Path, Any]) -> None:
    folder, model = run
    model.net[0].requires_grad_(False)
    for layers, message in (
        (["net.0"], "layers with trained weights on which the logits depend, or to be 'all', got net.0"),
        ([], "or to be 'all', got none"),
        (["nothing"], "Expected `layers` to name a layer"),
    ):
        with pytest.raises(ValueError, match=message):
            influence(None, folder, model, scaled(), TEST, layers=layers)
    assert not model.net[0].weight.requires_grad
    model.net[0].requires_grad_(True)


def test_learning_rates_differ_between_the_checkpoints_of_the_reference(run: tuple[Path, Any]) -> None:
    rates = [content["optimizer_states"][0]["param_groups"][0]["lr"] for content in kept(run[0])]
    assert len(set(rates)) == 2


def test_self_influence_is_the_influence_of_a_sample_on_itself(run: tuple[Path, Any]) -> None:
    folder, model = run
    expected = by_autograd(folder, (scaled().tensors[0], scaled().tensors[1])).diagonal()
    scores = self_influence(load_record(folder / "dynalens"), folder / "checkpoints", model, scaled())
    assert scores.index.tolist() == list(range(N))
    assert scores.name == "score_self_influence"
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_opponents_come_with_what_the_record_says_of_them(run: tuple[Path, Any]) -> None:
    folder, model = run
    record = load_record(folder / "dynalens")
    result = influence(record, folder, model, scaled(), TEST)
    reference = by_autograd(folder, TEST)[1]
    opponents = result.opponents(1, 3)
    assert opponents.index.tolist() == reference.argsort()[:3].tolist()
    assert (opponents["influence"] < 0).all()
    assert opponents["label"].tolist() == record.table().loc[opponents.index, "label"].tolist()
    assert result.proponents(1, 3).index.tolist() == reference.argsort(descending=True)[:3].tolist()
    last = Scaled()
    last.load_state_dict(kept(folder)[-1]["state_dict"])
    assert result.predicted.tolist() == last(TEST[0]).argmax(1).tolist()


def test_influence_of_a_linear_model_has_the_closed_form(tmp_path: Path) -> None:
    w, x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([0, 1])
    torch.save({"state_dict": {"weight": w}, "global_step": 3}, tmp_path / "a.ckpt")
    g = (x @ w.T).softmax(1) - F.one_hot(y, 2)
    expected = 0.3 * (x @ x.T) * (g @ g.T)
    layer = nn.Linear(2, 2, bias=False)
    result = influence(None, tmp_path, layer, TensorDataset(x, y), (x, y), learning_rate=0.3)
    torch.testing.assert_close(torch.from_numpy(result.values), expected)
    assert result.wrong() == [0, 1]  # logits (1, 4) of label 0, and (3, -2) of label 1


class Tail(nn.Module):
    """A hidden layer, a head of one or more logits, and what is done to them."""

    def __init__(self, classes: int, tail: Any = None) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(2, 3), nn.Linear(3, classes)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.hidden(x).tanh())
        return z if self.tail is None else self.tail(z)


def saved(model: nn.Module, folder: Path) -> Path:
    path = folder / "a.ckpt"
    torch.save({"state_dict": model.state_dict(), "global_step": 1}, path)
    return path


def tail_data() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0, 1])


def head_products(model: Tail, loss: Any) -> Tensor:
    x, y = tail_data()
    gradients = []
    for row in range(len(x)):
        value = loss(model(x[row : row + 1]), y[row : row + 1])
        gradients.append(torch.autograd.grad(value, model.head.weight)[0].flatten())
    stacked = torch.stack(gradients)
    return stacked @ stacked.T


def binary(z: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z.flatten(), y.float())


@pytest.mark.parametrize(
    ("classes", "tail", "loss"),
    [
        (2, lambda z: z.log_softmax(1), F.nll_loss),
        (2, lambda z: z.softmax(1), lambda p, y: F.nll_loss(p.log(), y)),
        (1, None, binary),
        (1, lambda z: z.flatten(), binary),
    ],
    ids=["log_softmax", "softmax", "one logit", "one logit without a dimension"],
)
def test_the_tail_behind_the_last_layer_is_left_to_the_loss(tmp_path: Path, classes: int, tail: Any, loss: Any) -> None:
    model = Tail(classes, tail)
    x, y = tail_data()
    result = influence(None, saved(model, tmp_path), model, TensorDataset(x, y), (x, y), learning_rate=1.0)
    torch.testing.assert_close(torch.from_numpy(result.values), head_products(model, loss), rtol=1e-4, atol=1e-6)


def test_another_loss_is_summed_over_samples(tmp_path: Path) -> None:
    model, (x, y) = Tail(2), tail_data()
    targets = F.one_hot(y, 2).float()

    def loss(z: Tensor, t: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, t, reduction="sum")

    path = saved(model, tmp_path)
    data = TensorDataset(x, targets)
    result = influence(None, path, model, data, (x, targets), learning_rate=1.0, loss=loss)
    expected = head_products(model, lambda z, label: loss(z, F.one_hot(label, 2).float()))
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="reduction='sum'"):
        influence(None, path, model, data, (x, targets), learning_rate=1.0, loss=F.binary_cross_entropy_with_logits)
    with pytest.raises(ValueError, match="one class for each"):
        influence(None, path, model, data, (x, targets), learning_rate=1.0)


def test_dicts_are_read_by_their_usual_keys(tmp_path: Path) -> None:
    model, (x, y) = Tail(2), tail_data()
    path = saved(model, tmp_path)
    data = [{"image": image, "label": label} for image, label in zip(x, y, strict=True)]
    one = influence(None, path, model, data, (x, y), learning_rate=1.0)
    other = influence(None, path, model, TensorDataset(x, y), (x, y), learning_rate=1.0)
    np.testing.assert_array_equal(one.values, other.values)


def test_a_module_without_a_forward_is_run_by_the_child_that_gives_logits(tmp_path: Path) -> None:
    class Headless(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = Tail(2), nn.CrossEntropyLoss()

    model, (x, y) = Headless(), tail_data()
    path, data = saved(model, tmp_path), TensorDataset(x, y)
    result = influence(None, path, model, data, (x, y), learning_rate=1.0)
    expected = head_products(model.net, F.cross_entropy)
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=1e-4, atol=1e-6)


def test_a_model_is_left_as_it_was(run: tuple[Path, Any]) -> None:
    folder, model = run
    nn.init.zeros_(model.net[3].bias)
    model.net[3].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    influence(None, folder, model, scaled(), TEST)
    with pytest.raises(ValueError, match="changes the probabilities"):
        influence(None, folder, model, scaled(), TEST, forward=lambda x: model(x) / 2, layer="net.3")
    assert differences(before, dict(model.state_dict())) == []
    assert not model.net[3].weight.requires_grad
    assert not any(module._forward_hooks for module in model.modules())
    model.net[3].requires_grad_(True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "net.0"}, "Expected `layer` to name the linear layer"),
        ({"checkpoints": "nowhere"}, "Expected `checkpoints` to be files of ModelCheckpoint"),
        ({"learning_rate": 0.0}, "learning rate above 0"),
        ({"data": TensorDataset(images(5) / N, labels(5))}, r"to be the one of the record.*got 5 samples\. Pass"),
        ({"data": TensorDataset(images() / N, labels().flip(0))}, "one of the record.*other labels.*`record=None`"),
        ({"data": TensorDataset(images() / N)}, "without labels"),
        ({"samples": (TEST[0][:0], TEST[1][:0])}, "at least one test sample"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(36, K))}, "Expected `checkpoints` of this model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_refused(run: tuple[Path, Any], change: dict[str, Any], message: str) -> None:
    folder, model = run
    options = {"checkpoints": folder, "model": model, "data": scaled(), "samples": TEST} | change
    arguments = [options.pop(name) for name in ("checkpoints", "model", "data", "samples")]
    with pytest.raises(ValueError, match=message):
        influence(load_record(folder / "dynalens"), *arguments, **options)


def test_datasets_without_positions_are_refused(run: tuple[Path, Any]) -> None:
    folder, model = run
    with pytest.raises(TypeError, match=r"Expected `dataset` to be map-style.*got list_iterator"):
        influence(None, folder, model, iter([]), TEST)


def test_checkpoints_without_one_learning_rate_are_refused(tmp_path: Path) -> None:
    model, (x, y) = Tail(2), tail_data()
    path = saved(model, tmp_path)
    with pytest.raises(ValueError, match="one learning rate, got none"):
        self_influence(None, path, model, TensorDataset(x, y))
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="with a state_dict and a global_step"):
        self_influence(None, path, model, TensorDataset(x, y))


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_a_sheet_of_influence_is_on_the_page_of_its_run_until_another_takes_the_folder(
    run: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = run
    record = load_record(folder / "dynalens")
    result = influence(record, folder, model, scaled(), TEST)
    sheet = influence_sheet(result, scaled(), TEST[0], tests=[0, 2], n=2)
    # Two rows; a test sample and four training samples, each in a cell with something drawn in it.
    cells = np.asarray(sheet.convert("L"))
    assert sheet.height < influence_sheet(result, scaled(), TEST[0], tests=[0, 1, 2], n=2).height
    assert (cells < 200).mean() > 0.1
    assert show_in_report(record, "influence", sheet) == folder / "dynalens" / "sheets" / "influence.png"
    page = write_report(record, tmp_path / "report.html").read_text()
    assert '["influence","data:image/png;base64,' in page
    with pytest.raises(ValueError, match="Expected `name` to be letters"):
        show_in_report(record, "../influence", sheet)
    with pytest.raises(ValueError, match="Pass the inputs and the dataset"):
        influence_sheet(result, scaled(), TEST[0][:2])
    fit(tmp_path, TrainingDynamicsMonitor(save_dir=folder / "dynalens"), max_epochs=1)
    assert not list(folder.glob("dynalens/sheets/*.png"))


class TwoHeads(nn.Module):
    """Returns the logits of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


def test_logits_of_several_heads_are_refused_and_the_advice_works(tmp_path: Path) -> None:
    # Zero weights: the gradient at the logits is 1/2 minus one-hot, so a term is (h h') (g g') = 3 * 2 * 1/2.
    model, file = TwoHeads(), tmp_path / "epoch=0.ckpt"
    weights = {"first.weight": torch.ones(2, 1), "second.weight": torch.zeros(2, 1)}
    torch.save({"state_dict": weights, "global_step": 1}, file)
    data: Any = [(torch.tensor([2.0]), 0)]
    test = torch.tensor([[3.0]]), torch.tensor([0])
    with pytest.raises(ValueError, match=r"logits of one head, got 2 tensors of shape \(1, 2\)\. Pass `forward=`"):
        influence(None, file, model, data, test, learning_rate=1.0)
    result = influence(None, file, model, data, test, learning_rate=1.0, forward=lambda x: model(x)[1])
    assert result.values.tolist() == [[pytest.approx(3.0)]]


class Twice(nn.Module):
    """A network that calls its only layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.head(x))
        return logits


def test_a_last_layer_that_is_called_twice_is_refused() -> None:
    model = Twice()
    with pytest.raises(ValueError, match=r"called once .* got calls with inputs of shapes \[\(3, 2\), \(3, 2\)\]"):
        LastLayer(model, model.head, model, own_loss=False)(torch.rand(3, 2))
