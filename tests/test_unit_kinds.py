"""Each kind of units in half precision, against plain Python on the same logits, and resumed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dynalens import AttributionMonitor, TrainingDynamicsMonitor
from training import K, N, trainer

T, WORDS, TOLERANCE = 6, 11, 0.25


class Kind(NamedTuple):
    """What is trained on, the axis of the logits' classes (None: one logit for each unit), and the network."""

    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]
    classes: int | None
    network: Callable[[], nn.Module]


def words() -> Tensor:
    return torch.randint(1, WORDS, (N, T), generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.rand(N, 4, 4, 1, generator=torch.Generator().manual_seed(0))


def tags() -> Tensor:
    return (words() % K).masked_fill(torch.arange(T) >= 2 + torch.arange(N)[:, None] % (T - 1), -100)


def pixels(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width))


KINDS = {
    "labels": Kind(images, lambda: (images().flatten(1)[:, :K] > 0.5).float(), None, lambda: pixels(K)),
    "numbers": Kind(images, lambda: images().flatten(1)[:, :2], None, lambda: pixels(2)),
    "tokens": Kind(words, tags, 2, lambda: nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, K))),
    "labels of tokens": Kind(
        words,
        lambda: (words()[..., None] >> torch.arange(K) & 1).float(),
        None,
        lambda: nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, K)),
    ),
    "pixels": Kind(images, lambda: (images()[..., 0] > 0.5).long(), 3, lambda: nn.Linear(1, 2)),
}


class Model(pl.LightningModule):
    """Keeps samples, logits and targets of every step as the loss is given them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.kind, self.net = kind, KINDS[kind].network()
        self.seen: list[tuple[list[int], Tensor, Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        return outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z, targets, classes = self(batch[0]), batch[1], KINDS[self.kind].classes
        z = z if classes is None else z.movedim(classes, 1)
        targets = targets.to(z.dtype) if targets.is_floating_point() else targets
        self.seen.append((batch[2].tolist(), z.detach().clone(), targets.clone()))
        if self.kind == "numbers":
            return F.mse_loss(z, targets)
        return F.cross_entropy(z, targets) if classes else F.binary_cross_entropy_with_logits(z, targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(folder: Path, model: Model, *callbacks: Any, loader: type[Any] = DataLoader, **options: Any) -> Model:
    kind, ckpt_path = KINDS[model.kind], options.pop("ckpt_path", None)
    data = TensorDataset(kind.inputs(), kind.targets(), torch.arange(N))
    trainer(folder, *callbacks, **options).fit(model, loader(data, batch_size=4), ckpt_path=ckpt_path)
    return model


def margins_and_losses(kind: str, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Margin and loss of each unit of one sample that counts, in float64."""
    if kind == "numbers":
        residuals = z.double() - targets.double()
        return (TOLERANCE / residuals.abs()).log(), residuals**2
    if KINDS[kind].classes is None:
        margins = torch.where(targets == 1, z, -z).double().flatten()
        return margins, F.softplus(-margins)
    counts = (targets >= 0).flatten()
    z, y = z.double().flatten(1)[:, counts], targets.flatten()[counts]
    own = z.gather(0, y[None])[0]
    return own - z.scatter(0, y[None], -torch.inf).max(dim=0).values, F.cross_entropy(z.T, y, reduction="none")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_recorded_and_explained_from_the_same_logits(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, precision: str
) -> None:
    if precision != "bf16-mixed":  # which says nothing of pictures
        request.getfixturevalue("undrawn")
    model = Model(kind)
    options: dict[str, Any] = {"precision": precision, "max_epochs": 2}
    alone = fitted(tmp_path / "alone", copy.deepcopy(model), **options)
    monitor = TrainingDynamicsMonitor(tolerance=TOLERANCE if kind == "numbers" else None)
    explained = AttributionMonitor(on_error="raise", methods="input_x_gradient", metrics=(), num_samples=2)
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    watched = fitted(tmp_path, model, monitor, explained, logger=logger, **options)
    for before, after in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(before, after)
    assert list(tmp_path.rglob("explanations/epoch_000001.npz"))
    presentations: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(N)]
    for samples, z, targets in watched.seen:
        assert z.dtype is (torch.float16 if precision == "16-true" else torch.bfloat16)
        for row, sample in enumerate(samples):
            presentations[sample].append(margins_and_losses(kind, z[row], targets[row]))
    statistics = monitor.statistics()
    expected = {
        "margin": [[margins.min() for margins, _ in each] for each in presentations],
        "mean_margin": [[margins.mean() for margins, _ in each] for each in presentations],
        "correctness": [[(margins > 0).double().mean() for margins, _ in each] for each in presentations],
        "loss": [[losses.mean() for _, losses in each] for each in presentations],
    }
    for name, values in expected.items():
        kept = getattr(statistics, name)
        np.testing.assert_allclose(kept, np.mean(values, axis=1), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("step", [6, 9], ids=["at the end of an epoch", "in the middle of an epoch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fit_ends_with_the_record_of_an_unbroken_one(tmp_path: Path, kind: str, step: int) -> None:
    loader, every = DataLoader, None
    if step % 6:  # which needs a loader that knows where it was
        loader, every = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader, 3
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    whole, resumed = TrainingDynamicsMonitor(), TrainingDynamicsMonitor()
    first = fitted(tmp_path / "a", Model(kind), whole, saver, loader=loader, enable_checkpointing=True)
    rest = fitted(tmp_path / "b", Model(kind), resumed, loader=loader, ckpt_path=str(tmp_path / f"step={step}.ckpt"))
    assert len(rest.seen) == len(first.seen) - step
    for name, values in whole.statistics().arrays().items():
        np.testing.assert_array_equal(getattr(resumed.statistics(), name), values, err_msg=name)
    assert whole.table().equals(resumed.table())
