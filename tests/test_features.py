"""The newest features of each sample: exactly what the layer gave, on whatever way, and what is made of them."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamicsMonitor, load_record
from dynalens.dynamics import TrainingDynamics
from dynalens.features import FeatureRows, position_mean
from dynalens.logs.projector import chosen_samples
from dynalens.pictures import Thumbnails
from dynalens.suspicion import neighbour_scores
from test_losses import assert_equals_the_definitions
from training import Classifier, K, N, fit, fit_undisturbed, images, indices_of, labels, loader

BF16 = torch.bfloat16


class Noted(Classifier):
    """Keeps the output of its convolution in each training step, and shifts images so that no feature is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[int, Tensor] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        with torch.no_grad():
            out = self.net[0](x / N)
        self.features |= dict(zip(indices_of(x), out.mean(dim=(2, 3)), strict=True))
        return super().training_step(batch, batch_idx)


def by_definition(features: Tensor, y: np.ndarray, k: int = 10) -> list[float]:
    """Slowly, in float64: sort every other sample by its cosine."""
    f = features.double().numpy()
    found = []
    for i in range(len(f)):
        cosines = [(-f[i] @ f[j] / np.linalg.norm(f[i]) / np.linalg.norm(f[j]), j) for j in range(len(f)) if j != i]
        near = [j for _, j in sorted(cosines)[:k]]
        found.append(float(np.mean([y[j] != y[i] for j in near])))
    return found


def test_the_table_has_what_the_nearest_neighbours_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    monitor, model = TrainingDynamicsMonitor(features="net.0"), Noted()
    fit(tmp_path, monitor, model=model)
    expected = torch.stack([model.features[i] for i in range(N)]).to(BF16)
    assert monitor._features.rows is not None
    torch.testing.assert_close(monitor._features.rows.values, expected, rtol=2e-2, atol=1e-3)
    kept = monitor._features.rows.values
    table = monitor.table()
    assert table["score_neighbours"].tolist() == pytest.approx(by_definition(kept, labels().numpy()))
    read = load_record(tmp_path).table()
    assert read["score_neighbours"].tolist() == table["score_neighbours"].tolist()
    assert "score_neighbours" in (tmp_path / "dynalens" / "samples.csv").read_text().splitlines()[0]


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_a_run_without_features_has_no_column_and_no_file_of_an_earlier_run(tmp_path: Path) -> None:
    fit(tmp_path, TrainingDynamicsMonitor(features="net.0"))
    assert (tmp_path / "dynalens" / "neighbours.npz").exists()
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor)
    assert "score_neighbours" not in monitor.table()
    assert not (tmp_path / "dynalens" / "neighbours.npz").exists()


def test_scores_of_earlier_epochs_are_not_taken_for_those_of_the_record(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(features="net.0")
    fit(tmp_path, monitor)
    folder = tmp_path / "dynalens"
    assert load_record(folder).neighbours() is not None
    meta = folder / "meta.json"
    meta.write_text(meta.read_text().replace('"epochs": [\n    0,', '"epochs": [\n    7,\n    0,'))
    assert load_record(folder).neighbours() is None


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_in_blocks_equal_their_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynalens.embeddings.neighbours._BLOCK", 70)  # a few rows at a time
    rng = torch.Generator().manual_seed(seed)
    features, y = torch.randn(30, 5, generator=rng), torch.randint(0, 3, (30,), generator=rng).numpy()
    assert neighbour_scores(features, y, k=4).tolist() == pytest.approx(by_definition(features, y, 4))


def test_a_shifted_label_stands_out_among_its_neighbours() -> None:
    y = np.repeat([0, 1], 20)
    features = torch.eye(2)[torch.from_numpy(y)] + 0.01 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    y[3] = 1
    scores = neighbour_scores(features, y)
    assert scores[3] == 1
    assert np.delete(scores, 3).max() <= 0.1


def test_samples_without_features_or_label_are_neither_scored_nor_neighbours() -> None:
    features = torch.tensor([[1.0, 0], [1, 0.1], [0, 0], [torch.nan, 1], [1, 0], [1, 0.3]])
    scores = neighbour_scores(features, np.array([0, 0, 1, 1, -1, 1]), k=1)
    assert scores[[0, 1, 5]].tolist() == [0, 0, 1]
    assert np.isnan(scores[[2, 3, 4]]).all()
    assert np.isnan(neighbour_scores(torch.ones(1, 2), np.array([0]))).all()  # no other sample
    assert np.isnan(neighbour_scores(torch.zeros(3, 2), np.array([0, 1, 2]))).all()


def test_some_of_many_samples_are_looked_for() -> None:
    y = np.arange(300) % 2
    features = torch.eye(2)[torch.from_numpy(y)] + 0.01 * torch.randn(300, 2)
    assert neighbour_scores(features, y, references=100).tolist() == [0.0] * 300
    # Large features overflow neither in their squares nor in their products.
    assert neighbour_scores(1e30 * features, y).tolist() == [0.0] * 300


def test_wrong_shapes_are_said() -> None:
    with pytest.raises(ValueError, match=r"Expected features \(N, D\) with N labels.*got \(2, 3\), \(3,\), 10 and"):
        neighbour_scores(torch.zeros(2, 3), np.zeros(3, int))


def test_pooling_takes_the_mean_over_positions() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    torch.testing.assert_close(position_mean(nn.Conv1d(1, 3, 1), x), x.mean(2))
    torch.testing.assert_close(position_mean(nn.LayerNorm(4), x), x.mean(1))
    torch.testing.assert_close(
        position_mean(nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(3), nn.ReLU()), x), x.mean(2)
    )
    torch.testing.assert_close(position_mean(nn.ReLU(), x.view(2, 3, 2, 2)), x.mean(2))
    torch.testing.assert_close(position_mean(nn.ReLU(), x.view(2, 3, 2, 2, 1)), x.mean(2))
    flat = torch.randn(2, 3, requires_grad=True)
    copy = position_mean(nn.Identity(), flat)
    assert torch.equal(copy, flat)
    assert copy.data_ptr() != flat.data_ptr()
    assert not copy.requires_grad
    with pytest.raises(ValueError, match=r"a norm or a linear layer, because .* got ReLU"):
        position_mean(nn.ReLU(), x)
    with pytest.raises(ValueError, match=r"floating and of shape \(N, D\), .* for feature maps, got \(3,\)"):
        position_mean(nn.ReLU(), torch.zeros(3))


class Residual(nn.Module):
    """The parts of a block of a ConvNeXt, whose last linear layer has channels last. Its output has them first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(5, 5, 3), nn.LayerNorm(5), nn.Linear(20, 5)


def test_linear_layers_beside_convolutions_say_nothing_of_maps_as_wide_as_they_have_channels() -> None:
    x = torch.arange(50.0 * 3).view(2, 5, 3, 5)
    weighs_channels = nn.Sequential(nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 5), nn.Sigmoid())
    embeds_patches = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.LayerNorm(5))
    for first in (weighs_channels, Residual()):
        torch.testing.assert_close(position_mean(first, x), x.mean((2, 3)))
    for last in (embeds_patches, nn.Linear(9, 5)):
        torch.testing.assert_close(position_mean(last, x), x.mean((1, 2)))


def test_pooling_knows_channels_that_come_last() -> None:
    x = torch.arange(210.0).view(2, 5, 3, 7)
    for last in (nn.LayerNorm(5), nn.Sequential(nn.Linear(9, 5), nn.GELU()), nn.Sequential(nn.LayerNorm(5), nn.ReLU())):
        torch.testing.assert_close(position_mean(last, x.permute(0, 2, 3, 1)), x.mean((2, 3)))
    for first in (Residual(), nn.Sequential(nn.LayerNorm(20), nn.Conv2d(20, 5, 1)), nn.LayerNorm([5, 3, 7])):
        torch.testing.assert_close(position_mean(first, x), x.mean((2, 3)))
    series = x.flatten(2)
    torch.testing.assert_close(
        position_mean(nn.Sequential(nn.LayerNorm(5), nn.Conv1d(5, 5, 1)), series), series.mean(2)
    )
    torch.testing.assert_close(position_mean(Residual(), series), series.mean(2))


def test_the_last_row_of_a_sample_counts() -> None:
    rows = FeatureRows()
    rows.update(torch.tensor([1, 0, 1]), torch.tensor([[1.0], [2.0], [3.0]]), 3)
    rows.update(torch.tensor([0, 0]), torch.tensor([[5.0], [6.0]]), 3)
    assert rows.values.flatten().tolist() == [6, 3, 0]
    assert rows.has_row.tolist() == [True, True, False]


def test_room_grows_with_the_ids_up_to_the_budget() -> None:
    rows = FeatureRows(budget=2 * 2 * 10)  # ten rows of two values
    for n in range(1, 11):
        rows.update(torch.tensor([n - 1]), torch.full((1, 2), float(n)), n)
    assert rows.values[:10, 0].tolist() == list(range(1, 11))
    with pytest.raises(ValueError, match=r"fit into 40 bytes, got 11 samples with 2 values of 2 bytes, 44 bytes"):
        rows.update(torch.tensor([10]), torch.zeros(1, 2), 11)
    with pytest.raises(ValueError, match="always gives 2 values, got 3"):
        rows.update(torch.tensor([0]), torch.zeros(1, 3), 10)


def test_no_update_of_features_waits_for_the_device() -> None:
    with FakeTensorMode():  # reading a value raises here
        rows, thumbnails = FeatureRows(), Thumbnails([0, 2], 5)
        for _ in range(2):
            at, x = torch.tensor([0, 1, 2]), torch.randn(3, 4, 6, 6)
            rows.update(at, position_mean(nn.Conv2d(1, 4, 1), x), 5)
            thumbnails.see(at, x)


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_the_later_step_of_several_processes_counts(ranks: tuple[int, int]) -> None:
    both = [FeatureRows(), FeatureRows()]
    both[0].update(torch.tensor([0, 1]), torch.tensor([[1.0], [2.0]]), 4)
    both[0].update(torch.tensor([3]), torch.tensor([[3.0]]), 4)
    both[1].update(torch.tensor([1, 3]), torch.tensor([[4.0], [5.0]]), 4)
    sent: list[list[Tensor]] = [[], []]

    def recording(own: list[Tensor]) -> Any:
        def gather(tensor: Tensor) -> list[Tensor]:
            own.append(tensor)
            return [tensor]

        return gather

    copies = [FeatureRows(), FeatureRows()]
    for twin, rows in zip(copies, both, strict=True):
        twin.__dict__ |= {k: v.clone() if isinstance(v, Tensor) else v for k, v in rows.__dict__.items()}
    for own, twin in zip(sent, copies, strict=True):
        twin.merge(recording(own))
    for rows in both:
        answers = iter(zip(*sent, strict=True))
        rows.merge(lambda _tensor, answers=answers: list(next(answers)))  # type: ignore[misc]  # a default binds it
    # Sample 1 in step 1 of both: the higher rank; sample 3 in step 2 of the first and step 1 of the second.
    assert [rows.values.flatten().tolist() for rows in both] == [[1, 4, 0, 3]] * 2
    assert [rows.has_row.tolist() for rows in both] == [[True, True, False, True]] * 2


def test_features_survive_a_checkpoint(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "c", save_last=True)
    first = TrainingDynamicsMonitor(features="net.0")
    model = fit(tmp_path / "a", first, saver, enable_checkpointing=True, max_epochs=2)
    stored = torch.load(saver.last_model_path, weights_only=True)
    second = TrainingDynamicsMonitor(features="net.0")
    fit(tmp_path / "b", second, model=type(model)(), ckpt_path=saver.last_model_path, max_epochs=2)  # nothing is left
    (state,) = [s for key, s in stored["callbacks"].items() if key.startswith("TrainingDynamicsMonitor")]
    assert state["features"]["values"].shape == (N, 4)
    assert second.table()["score_neighbours"].tolist() == first.table()["score_neighbours"].tolist()
    assert not second.table()["score_neighbours"].isna().any()
    third = TrainingDynamicsMonitor()  # without features, the state is left aside
    fit(tmp_path / "d", third, model=type(model)(), ckpt_path=saver.last_model_path, max_epochs=3)
    assert "score_neighbours" not in third.table()
    second.reset()
    assert second._features.rows is None


def test_string_ids_and_views(tmp_path: Path) -> None:
    def read(batch: Any) -> list[str]:
        return [f"s{int(i)}" for i in batch[0][:, 0, 0, 0]]

    monitor = TrainingDynamicsMonitor(features="net.0", index=read)
    fit(tmp_path / "a", monitor)
    assert not monitor.table()["score_neighbours"].isna().any()

    class Views(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return self.loss(self(torch.cat([x, 2 * x]) / N), torch.cat([y, y]))

    model = Views()
    before = copy.deepcopy(model.net)
    monitor = TrainingDynamicsMonitor(features="net.0", views=2)
    fit(tmp_path / "b", monitor, model=model, max_epochs=1, data=lambda: loader(batch_size=N))
    with torch.no_grad():  # one step: the features are those of the weights before it
        expected = sum(before[0](views * images() / N).mean(dim=(2, 3)) for views in (1, 2)) / 2
    assert monitor._features.rows is not None
    torch.testing.assert_close(monitor._features.rows.values.float(), expected, rtol=1e-2, atol=1e-3)


Passes = Callable[["Again", Tensor, Tensor], Tensor]


class Again(Classifier):
    """Runs its network more than once in a step, and keeps what its convolution gave for what the loss is of."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes, self.features = passes, dict[int, Tensor]()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.passes(self, x, y)

    def loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.net[0](x / N)
        self.features |= dict(zip(indices_of(x), out.detach().mean(dim=(2, 3)), strict=True))
        return F.cross_entropy(self.net[1:](out), y)

    def other(self, x: Tensor) -> Tensor:
        z: Tensor = self(x / N)
        return 0.1 * z.square().mean()


def in_halves(model: Again, x: Tensor, y: Tensor) -> Tensor:
    halves = zip(x.chunk(2), y.chunk(2), strict=True)
    return torch.stack([model.loss_of(*half) for half in halves]).mean()


def copied_backwards(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy()[::-1].copy())  # what follows rows in torch does not see it


PASSES: dict[str, Passes] = {
    "some rows again": lambda model, x, y: model.loss_of(x, y) + model.other(x[:2]),
    "all rows backwards": lambda model, x, y: model.loss_of(x, y) + model.other(x.flip(0)),
    "backwards before": lambda model, x, y: model.other(x.flip(0)) + model.loss_of(x, y),
    "backwards, unseen": lambda model, x, y: model.loss_of(x, y) + model.other(copied_backwards(x)),
    "the loss backwards": lambda model, x, y: model.loss_of(x.flip(0), y.flip(0)) + model.other(x),
    "noise": lambda model, x, y: model.loss_of(x, y) + model.other(torch.ones_like(x)),
    "parts of the batch": in_halves,
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", PASSES)
def test_features_are_of_the_pass_that_the_loss_is_of(tmp_path: Path, name: str) -> None:
    monitor, model = TrainingDynamicsMonitor(features="net.0", history=False), Again(PASSES[name])
    fit(tmp_path, monitor, model=model, max_epochs=1)
    assert monitor._features.rows is not None
    expected = torch.stack([model.features[i] for i in range(N)])
    torch.testing.assert_close(monitor._features.rows.values.float(), expected, rtol=1e-2, atol=1e-3)


def test_a_layer_with_several_calls_behind_the_logits_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    class Pairs(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.joined = nn.Identity()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return self.loss(self.net[1:](self.joined(self.net[0](x / N) - self.net[0](2 * x / N))), y)

    with pytest.raises(
        ValueError, match=r"once to compute the logits of a step, got 2 calls of net\.0.*`nn\.Identity\(\)`"
    ):
        fit(tmp_path, TrainingDynamicsMonitor(features="net.0"), model=Pairs())
    monitor = TrainingDynamicsMonitor(features="joined", history=False)
    fit(tmp_path, monitor, model=Pairs(), max_epochs=1)
    assert monitor._features.rows is not None
    assert bool(monitor._features.rows.has_row[:N].all())


class Signals(pl.LightningModule):
    def __init__(self, *, sums: bool = False) -> None:
        super().__init__()
        self.sums, self.mix, self.head = sums, nn.Identity(), nn.Linear(36, K)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0].flatten(1)
        self.mix(x.sum(0, keepdim=True) if self.sums else x)
        return nn.functional.cross_entropy(self.head(x), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Changes(Classifier):
    """From the second epoch on, a layer is left out, gives other numbers of values, or one for the whole batch."""

    def __init__(self, later: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.later, self.mix = later, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(1)
        if self.current_epoch and self.later is not None:
            features = self.later(features)
        if not self.current_epoch or self.later is not None:
            self.mix(features)
        return super().forward(x)


@pytest.mark.parametrize(
    "later", [None, lambda x: x[:, :8], lambda x: x.sum(), lambda x: x[:1]], ids=["none", "narrow", "number", "row"]
)
def test_later_steps_without_features_end_no_training(tmp_path: Path, later: Callable[[Tensor], Tensor] | None) -> None:
    monitor = TrainingDynamicsMonitor(features="mix")
    with pytest.warns(UserWarning, match="`features`, so training goes on without those of other steps") as said:
        module = fit_undisturbed(tmp_path, monitor, lambda: Changes(later), max_epochs=2)
    assert len([each for each in said if "goes on without" in str(each.message)]) == 1
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_mistakes_are_said_in_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected `features` to name a layer of Classifier, got 'net\.9'.*net\.3"):
        fit(tmp_path, TrainingDynamicsMonitor(features="net.9"))
    with pytest.raises(ValueError, match="a row for each of 4 samples, got 1 rows of mix"):
        fit(tmp_path, TrainingDynamicsMonitor(features="mix"), model=Signals(sums=True))
    unused = Classifier()
    unused.other = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="Expected the layer to run and give a tensor, got no call of it"):
        fit(tmp_path, TrainingDynamicsMonitor(features="other"), model=unused)
    with pytest.raises(ValueError, match="Expected `features` to name a layer if `projector_every_n_epochs`"):
        TrainingDynamicsMonitor(projector_every_n_epochs=1)
    with pytest.raises(ValueError, match="Expected `projector_every_n_epochs` to be at least 1, got 0"):
        TrainingDynamicsMonitor(features="net.0", projector_every_n_epochs=0)
    with pytest.raises(MisconfigurationException, match="TensorBoardLogger for `projector_every_n_epochs`, got none"):
        fit(tmp_path, TrainingDynamicsMonitor(features="net.0", projector_every_n_epochs=1))


def test_the_projector_has_features_thumbnails_and_metadata_of_each_step(tmp_path: Path) -> None:
    data = TensorDataset(images(), labels())
    data.classes = ["a\tb", "", "c"]  # type: ignore[attr-defined]  # as torchvision's data sets have it
    monitor = TrainingDynamicsMonitor(features="net.0", projector_every_n_epochs=2, x_axis="epoch")
    fit(tmp_path, monitor, data=lambda: loader(data), logger=TensorBoardLogger(tmp_path, name="run"), max_epochs=4)
    run = tmp_path / "run" / "version_0"
    config = (run / "projector_config.pbtxt").read_text()
    assert re.findall(r'tensor_name: "(.*)"', config) == ["dynalens/projector:00000", "dynalens/projector:00002"]
    paths = {kind: re.findall(rf'{kind}_path: "(.*)"', config)[-1] for kind in ("tensor", "metadata", "image")}
    vectors = np.loadtxt(run / paths["tensor"], delimiter="\t")
    assert vectors.shape == (N, 4)
    rows = [line.split("\t") for line in (run / paths["metadata"]).read_text().splitlines()]
    assert rows[0] == ["sample", "label", "suggested", "score", "forgetting_events"]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(N)]
    names = ["a b", "-", "c"]
    assert [row[1] for row in rows[1:]] == [names[y] for y in labels().tolist()]
    from PIL import Image

    with Image.open(run / paths["image"]) as sprite:
        assert sprite.size == (5 * 32, 5 * 32)  # 22 pictures in 5 rows of 5
        assert re.findall(r"single_image_dim: (\d+)", config)[-2:] == ["32", "32"]
        pixels = np.asarray(sprite.convert("RGB"))
    shown = images()[1, 0]  # an image is stretched from its smallest to its largest value
    expected = (255 * (shown - shown.min()) / (shown.max() - shown.min())).round()
    corner = pixels[:32, 32:64, 0]
    assert corner[16, 16] == pytest.approx(float(expected[3, 3]), abs=1)
    assert corner[0, 31] == pytest.approx(float(expected[0, 5]), abs=1)


def test_the_worst_and_a_random_rest_are_chosen_of_many() -> None:
    n = 5000
    dynamics = TrainingDynamics(n)
    logits = torch.zeros(n, 2)
    logits[:, 0] = torch.arange(n) / 100
    dynamics.update(range(n), logits, torch.zeros(n, dtype=torch.int64))
    dynamics.end_epoch(0)
    chosen = chosen_samples(dynamics.compute())
    assert len(chosen) == len(set(chosen)) == 2000
    assert set(range(500)) <= set(chosen)
    assert chosen == chosen_samples(dynamics.compute())
    assert 600 < sum(row >= 2500 for row in chosen) < 950  # a random half of the rest


def test_thumbnails_are_square_and_those_that_have_not_passed_are_white() -> None:
    thumbnails = Thumbnails([4, 0], 6)
    assert thumbnails.pictures() is None
    thumbnails.see(torch.tensor([0, 5, 9]), torch.zeros(3, 3, 64, 128))
    pictures = thumbnails.pictures()
    assert pictures is not None
    assert pictures.shape == (2, 32, 32, 3)
    assert pictures[0].min() == 255
    assert pictures[1].max() == 0
    thumbnails.see(torch.tensor([4]), None)
    thumbnails.see(torch.tensor([4]), torch.zeros(1, 2, 8))  # a signal
    thumbnails.see(torch.tensor([4]), torch.zeros(1, 1, 8, 8))  # of other channels than the first
    assert thumbnails.pictures()[0].min() == 255  # type: ignore[index]  # there are some
