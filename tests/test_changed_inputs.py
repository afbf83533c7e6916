"""What is said if a step gives its network other inputs than those of the batch, which are the ones explained."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import LayerMonitor, TrainingDynamicsMonitor
from dynalens.capture.given_inputs import are_rows_of
from dynalens.capture.scaling import Scaling, scaling_from
from test_explained_inputs import explanation
from training import Classifier, K, N, attribution_monitor, fit, images, labels, loader

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
]
TOLD = r"step that changes them first.*explains|step that changes them first.*gives the network the inputs of the batch"


class Norm(nn.Module):
    """A transform: a module without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 2


class Changes(Classifier):
    """Changes its inputs, and chooses rows, before its network is given them."""

    def __init__(self, change: Callable[[Tensor], Tensor], rows: Any = slice(None), net: Any = None) -> None:
        super().__init__()
        self.change, self.rows, self.norm = change, rows, Norm()
        self.net = net or nn.Sequential(nn.Flatten(), nn.Linear(36, K))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(self.changed(x)[self.rows]), y[self.rows])

    def changed(self, x: Tensor) -> Tensor:
        changed: Tensor = (self.norm if self.change is None else self.change)(x)
        return changed

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def told(folder: Path, model: Any, *others: Any, monitor: Any = None, x: Tensor | None = None, **options: Any) -> int:
    """Train, and return how often it was said that a step changes its inputs."""
    monitor = monitor or attribution_monitor(methods="saliency", metrics=(), num_samples=2, on_error="raise")
    data = TensorDataset(images() if x is None else x, labels())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            folder, *others, monitor, model=model, data=lambda: loader(data, shuffle=False),
            val=lambda: loader(data, shuffle=False), max_epochs=2, **options,
        )  # fmt: skip
    return sum("step that changes them first" in str(w.message) for w in caught)


def enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x[:, :, ::2, ::2], size=6)


CHANGES: dict[str, Any] = {
    "scaled": lambda x: x / N, "normalised by a module": None,
    "each scaled": lambda x: x / x.flatten(1).std(dim=1).view(-1, 1, 1, 1), "normalised in place": lambda x: x.sub_(1),
    "resized": enlarged, "with noise": lambda x: x + torch.rand_like(x),
    "clipped": lambda x: x.clamp(0, 1), "scaled and in another shape": lambda x: (x * 2).flatten(1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("tracked", [True, False], ids=["with a tracker", "alone"])
def test_inputs_that_a_step_changes_are_told_once(tmp_path: Path, change: Any, tracked: bool) -> None:
    tracker = [TrainingDynamicsMonitor()] if tracked else []
    in_place = change is CHANGES["normalised in place"]  # then the batch holds what the network is given
    assert told(tmp_path, Changes(change), *tracker) == (0 if in_place else 1)


BYTES = (torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 256).to(torch.uint8)
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SCALINGS: dict[str, tuple[Tensor, Any]] = {
    "by a module": (BYTES, None),
    "converted": (BYTES, lambda x: x.float()),
    "converted and scaled": (BYTES, lambda x: x.float() / 255),
    "normalised": (BYTES, lambda x: (x / 255 - MEAN) / DEVIATION),
    "channels last": (BYTES.movedim(1, -1).contiguous(), lambda x: x.permute(0, 3, 1, 2).float() / 255),
    "channels last, converted": (BYTES.movedim(1, -1).contiguous(), lambda x: x.movedim(-1, 1).float()),
    "booleans": (BYTES > 99, lambda x: x.float() * 2 - 1),
}


@pytest.mark.parametrize(("x", "scale"), SCALINGS.values(), ids=SCALINGS.keys())
def test_inputs_that_a_step_scales_are_explained_as_the_network_is_given_them(
    tmp_path: Path, x: Tensor, scale: Any
) -> None:
    model = Changes(scale, net=nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), K)))
    tracker = [TrainingDynamicsMonitor()] if x is BYTES else []
    assert told(tmp_path, model, *tracker, x=x) == 0
    inputs = model.changed(x)[:2].requires_grad_()
    logits = model.net(inputs)
    written = explanation(tmp_path, 1)
    np.testing.assert_allclose(written["logits"], logits.detach(), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(logits[torch.arange(2), labels()[:2]].sum(), [inputs])
    expected = gradient.abs().amax(dim=1).numpy()
    scales = written["saliency.scales"].reshape(-1, 1, 1)
    np.testing.assert_allclose(written["saliency.maps"] * scales, expected, rtol=1e-2, atol=1e-3 * expected.max())


@pytest.mark.parametrize(
    "change", [lambda x: x * torch.rand(()), lambda x: (x / 255) ** 2, lambda x: x / x.amax((1, 2, 3), keepdim=True)],
    ids=["drawn", "squared", "each by its own number"],
)  # fmt: skip
def test_bytes_that_a_step_changes_in_another_way_are_told(tmp_path: Path, change: Any) -> None:
    monitor = attribution_monitor(methods="saliency", metrics=(), num_samples=2)
    model = Changes(change, net=nn.Sequential(nn.Flatten(), nn.Linear(48, K)))
    assert told(tmp_path, model, monitor=monitor, x=BYTES) == 1


def test_a_line_through_each_channel_tells_a_scaling() -> None:
    x = torch.arange(24).view(2, 3, 2, 2)
    by_channel = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    view, scaling = scaling_from(x, x * by_channel - 3) or (None, None)
    assert (view, scaling) == (None, Scaling(torch.int64, torch.float32, (1.0, 2.0, 4.0), (-3.0, -3.0, -3.0)))
    assert scaling is not None
    assert torch.equal(scaling.of(x + 1), (x + 1) * by_channel - 3)
    assert torch.equal(scaling.of(x.float()), x.float())  # of another dtype, as another loader may have it
    for other in (x**2.0, x * torch.rand(2, 1, 1, 1), torch.zeros(x.shape), x[:1].float(), 2 * x):
        assert scaling_from(x, other) is None
    assert scaling_from(torch.ones_like(x), x.float()) is None
    assert scaling_from(x.flatten(1), 2.0 * x.flatten(1)) is None  # of a table, whose columns are no channels


UNCHANGED: dict[str, Any] = {
    "itself": lambda x: x, "double": lambda x: x.double().float(), "rows": lambda x: x.flatten(1),
    "clone": lambda x: x.clone(), "permuted": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "in memory": lambda x: x.to(memory_format=torch.channels_last), "added axis": lambda x: x[:, None],
    "transposed rows": lambda x: x.transpose(2, 3).flatten(1),
}  # fmt: skip


@pytest.mark.parametrize("change", UNCHANGED.values(), ids=UNCHANGED.keys())
@pytest.mark.parametrize("rows", [slice(None), [1, 0], torch.tensor([0, 1, 0, 1])], ids=["all", "order", "twice"])
def test_other_forms_of_the_same_values_are_no_change(tmp_path: Path, change: Any, rows: Any) -> None:
    assert told(tmp_path, Changes(change, rows)) == 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_a_precision_is_no_change(tmp_path: Path, precision: Any) -> None:
    assert told(tmp_path, Changes(lambda x: x), precision=precision) == 0


def test_a_backbone_without_gradients_is_no_change(tmp_path: Path) -> None:
    class Probe(Changes):
        def __init__(self) -> None:
            super().__init__(lambda x: x)
            self.backbone, self.head = nn.Sequential(nn.Flatten(), nn.Linear(36, 8)), nn.Linear(8, K)

        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                features = self.backbone(x)
            return self.head(features)

    class OnItsOwn(Probe):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with torch.no_grad():
                features = self.backbone(batch[0])
            return F.cross_entropy(self.head(features), batch[1])

    assert told(tmp_path, Probe()) == told(tmp_path / "own", OnItsOwn()) == 0


def test_a_list_of_images_that_a_step_stacks_is_no_change(tmp_path: Path) -> None:
    class Stacks(Changes):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(self.change(torch.stack(batch[0]))), torch.tensor(batch[1]))

    def lists(samples: list[Any]) -> Any:
        return [x for x, _ in samples], [int(y) for _, y in samples]

    def warnings_of(folder: Path, change: Any) -> int:
        monitor = attribution_monitor(
            methods="saliency", metrics=(), samples=(images()[:2], labels()[:2]), on_error="raise"
        )
        data = lambda: loader(collate_fn=lists)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(folder, monitor, model=Stacks(change), data=data, max_epochs=1)
        assert monitor._explanations.samples.observer.changes_inputs is (change(1.0) != 1.0)
        return len([w for w in caught if "changes them first" in str(w.message)])

    assert warnings_of(tmp_path, lambda x: x) == 0
    assert warnings_of(tmp_path / "scaled", lambda x: x * 2) == 0  # the user gave the samples to explain


def test_a_regression_whose_inputs_are_clipped_is_told(tmp_path: Path) -> None:
    class Regression(Changes):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.mse_loss(self(self.change(batch[0])).squeeze(1), batch[1].float())

    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    assert told(tmp_path, Regression(lambda x: x.clamp(0, 1), net=net), TrainingDynamicsMonitor()) == 1
    assert told(tmp_path / "same", Regression(lambda x: x, net=net), TrainingDynamicsMonitor()) == 0


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1), (0, 3, 2, 1)])
def test_a_copy_of_a_view_is_explained_in_the_order_of_the_view(tmp_path: Path, order: Any) -> None:
    x = torch.rand((N, 2, 3, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    class Permutes(Changes):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0].permute(order).contiguous().float()), batch[1])

    model = Permutes(lambda x: x)
    assert told(tmp_path, model, x=x) == 0
    written = explanation(tmp_path, 1)
    expected = model.net(x[:2].permute(order).float()).detach()
    np.testing.assert_allclose(written["logits"], expected, rtol=1e-4)


def test_the_advice_on_changed_inputs_explains_what_the_network_is_given(tmp_path: Path) -> None:
    def scaled(batch: Any) -> Any:
        return (batch[0] / N).clamp(0, 1), batch[1]

    model = Changes(lambda x: (x / N).clamp(0, 1))
    monitor = attribution_monitor(methods="saliency", metrics=(), num_samples=2, on_error="raise", inputs=scaled)
    assert told(tmp_path, model, monitor=monitor) == 0
    expected = model.net((images()[:2] / N).clamp(0, 1)).detach()
    np.testing.assert_allclose(explanation(tmp_path, 1)["logits"], expected, rtol=1e-4)
    own = attribution_monitor(
        methods="saliency",
        metrics=(),
        num_samples=2,
        on_error="raise",
        forward=lambda module, x: module((x / N).clamp(0, 1)),
    )
    assert told(tmp_path / "forward", model, monitor=own) == 0


def test_the_layer_monitor_tells_changed_inputs_where_it_draws_feature_maps(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, K))
    assert told(tmp_path, Changes(lambda x: x / N, net=net), monitor=LayerMonitor(layer="net.0", feature_maps=2)) == 1
    assert told(tmp_path / "w", Changes(lambda x: x / N, net=net), monitor=LayerMonitor(weights=True)) == 0


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (lambda x: x[[2, 0]], True), (lambda x: torch.cat([x, x + 1]), True), (lambda x: x.flip(-1), True),
        (lambda x: torch.cat([x, x + 1, x + 2]), False), (lambda x: x[:, :2], False), (lambda x: 2 * x, False),
        (lambda x: x.half(), True), (lambda x: -x, False),
    ],
)  # fmt: skip
def test_rows_are_of_an_entry_if_half_of_them_have_its_numbers(tensor: Any, expected: bool) -> None:
    entry = torch.tensor([[1.0, 2.0, 4.0], [-3.0, 0.25, 9.0], [0.0, 0.5, 7.0]])
    assert are_rows_of(entry, tensor(entry)) is expected


def test_missing_values_in_rows_are_equal() -> None:
    entry = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    assert are_rows_of(entry, entry.double())
    assert not are_rows_of(entry, entry.nan_to_num(0.0)[:1])


def test_tokens_without_the_padding_at_the_end_are_rows_of_an_entry() -> None:
    tokens = torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]])
    assert are_rows_of(tokens, tokens[:, :2])
    assert not are_rows_of(tokens, tokens[:, 1:3])
