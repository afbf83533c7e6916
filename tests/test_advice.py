"""What errors advise is followed here as a newcomer would: it ends in the exact record."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynalens import CaptureError, SampleIdentityError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions
from training import Classifier, K, N, fit, fit_undisturbed, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


class SideBySide(Classifier):
    """Repeated augmentation: two copies of each image follow one another."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.copies(*batch)
        logits = self.rows(x)
        self.remember(x, logits, y)
        return F.cross_entropy(logits, y)

    def copies(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.repeat_interleave(2, dim=0), y.repeat_interleave(2)

    def rows(self, x: Tensor) -> Tensor:
        logits: Tensor = self(x / N)
        return logits


class Crops(SideBySide):
    """Two crops of each image come from the dataset, and stand in an axis of their own."""

    def copies(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(0, 1), y[:, None].expand(-1, 2).reshape(-1)


class RepeatsLogits(SideBySide):
    def rows(self, x: Tensor) -> Tensor:
        logits: Tensor = self(x[::2] / N)
        return logits.repeat_interleave(2, dim=0)


def crops() -> Any:
    return loader(TensorDataset(torch.stack([images(), images()], dim=1), labels()), batch_size=6)


def single() -> Any:
    return loader(batch_size=6)


SIDE_BY_SIDE = {"images": (SideBySide, single), "crops": (Crops, crops), "logits": (RepeatsLogits, single)}


@pytest.mark.parametrize(("model", "data"), SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE.keys())
def test_views_of_a_sample_side_by_side_are_exact_once_views_is_passed_as_the_error_says(
    tmp_path: Path, model: type[SideBySide], data: Any
) -> None:
    with pytest.raises(SampleIdentityError, match=r"got 12\. Pass `views=2` if .* no labels .*, leave the monitor out"):
        fit(tmp_path / "first", TrainingDynamicsMonitor(history=False), model=model(), data=data, max_epochs=1)
    monitor = TrainingDynamicsMonitor(history=False, views=2)
    module = fit_undisturbed(tmp_path, monitor, model, data=data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    assert monitor.statistics().presentations.tolist() == [4] * N


def test_features_of_views_side_by_side_are_averaged_for_each_sample(tmp_path: Path) -> None:
    class Brighter(SideBySide):
        def copies(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            copies = x.repeat_interleave(2, dim=0)
            copies[1::2] *= 2
            return copies, y.repeat_interleave(2)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    monitor, module = TrainingDynamicsMonitor(history=False, views=2, features="net.0"), Brighter()
    fit(tmp_path, monitor, model=module, data=single, max_epochs=1)
    values = monitor._features.rows
    assert values is not None
    with torch.no_grad():
        net: Any = module.net
        expected = sum(net[0](scale * images() / N).mean(dim=(2, 3)) for scale in (1, 2)) / 2
    torch.testing.assert_close(values.values.float(), expected, rtol=1e-2, atol=1e-2)


class Contrastive(Classifier):
    """A supervised contrastive loss whose targets say which other samples have the same label."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.Linear(64, K)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        features = self.net[:3](x / N).flatten(1)
        z = F.normalize(features, dim=1)
        scores = (z @ z.T / 0.1).masked_fill(torch.eye(len(x), dtype=torch.bool), -1e9)
        same = (y[:, None] == y[None]).float().fill_diagonal_(0)
        same = same / same.sum(dim=1, keepdim=True).clamp(min=1)
        return self.result(F.cross_entropy(scores, same), x, features, y)

    def result(self, loss: Tensor, x: Tensor, features: Tensor, y: Tensor) -> Any:
        return loss


class ContrastiveWithProbe(Contrastive):
    def result(self, loss: Tensor, x: Tensor, features: Tensor, y: Tensor) -> Any:
        logits = self.probe(features.detach())
        self.remember(x, logits, y)
        return self.returned(loss + F.cross_entropy(logits, y), logits, y)

    def returned(self, loss: Tensor, logits: Tensor, y: Tensor) -> Any:
        return loss


class ReturnsItsProbe(ContrastiveWithProbe):
    def returned(self, loss: Tensor, logits: Tensor, y: Tensor) -> Any:
        return {"loss": loss, "logits": logits, "targets": y}


def test_an_error_about_pairs_of_samples_says_to_train_a_classifier_beside(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"contrastive loss has .* of a classifier.*, or leave the monitor out"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=Contrastive(), data=single, max_epochs=1)


@pytest.mark.parametrize("model", [ContrastiveWithProbe, ReturnsItsProbe])
def test_a_classifier_beside_a_loss_of_pairs_is_recorded(tmp_path: Path, model: type[Contrastive]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, model, data=single, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class InnerLoop(Classifier):
    """Adapts a copy of its network by steps of its own, as ProtoMAML does, before it asks it about other samples."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.probe = False, nn.Linear(K, K)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        (support, query), (of_support, of_query) = (x / N).chunk(2), y.chunk(2)
        network = deepcopy(self.net)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(support), of_support))
            optimizer.step()
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(query), of_query))
        for own, adapted in zip(self.net.parameters(), network.parameters(), strict=True):
            own.grad = adapted.grad
        result = self.result(x, y)
        outer: Any = self.optimizers()
        outer.step()
        outer.zero_grad()
        return result

    def result(self, x: Tensor, y: Tensor) -> Any:
        return None


class InnerLoopWithProbe(InnerLoop):
    def result(self, x: Tensor, y: Tensor) -> Any:
        logits = self.probe(self(x / N).detach())
        self.remember(x, logits, y)
        loss = F.cross_entropy(logits, y)
        self.manual_backward(loss)
        return {"loss": loss.detach(), "logits": logits, "targets": y}


def test_an_error_about_an_inner_loop_says_that_the_monitor_is_to_be_left_out_if_classes_are_numbered_anew(
    tmp_path: Path,
) -> None:
    with pytest.raises(CaptureError, match=r"got 3: .* few-shot learning, .* leave the monitor out\.$"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=InnerLoop(), data=single, max_epochs=1)


def test_logits_of_all_classes_that_are_returned_beside_an_inner_loop_are_recorded(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, InnerLoopWithProbe, data=single, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class Mixes(Classifier):
    """Mixes images in pairs, and adds the losses of both labels."""

    returns_rows = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        order = torch.randperm(len(x))
        index = x[:, :, :1, :1]  # the first pixel, which tells the module the index
        mixed = torch.where(x == index, x, 0.7 * x + 0.3 * x[order])
        logits = self(mixed / N)
        self.remember(x, logits, y)
        loss = 0.3 * F.cross_entropy(logits, y[order]) + 0.7 * F.cross_entropy(logits, y)
        return {"loss": loss, "logits": logits, "targets": y} if self.returns_rows else loss


class ReturnsItsOwnLabels(Mixes):
    returns_rows = True


def test_mixed_images_are_recorded_with_their_own_labels_where_a_step_returns_these(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"Return a dict .*`logits` and `targets`"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=Mixes())
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, ReturnsItsOwnLabels, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class Pairs(Dataset[Any]):
    """Each item is two samples and their names."""

    def __len__(self) -> int:
        return N // 2

    def __getitem__(self, i: int) -> Any:
        pair = slice(2 * i, 2 * i + 2)
        return images()[pair], labels()[pair], [str(2 * i), str(2 * i + 1)]


class OfFirstTwo(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


def test_items_of_several_samples_are_an_error_and_recorded_by_their_names(tmp_path: Path) -> None:
    def pairs() -> Any:
        return DataLoader(Pairs(), batch_size=None)

    with pytest.raises(SampleIdentityError, match=r"an item of the dataset is several samples.*`index=`"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=OfFirstTwo(), data=pairs, max_epochs=1)
    monitor = TrainingDynamicsMonitor(history=False, index=2)
    module = fit(tmp_path, monitor, model=OfFirstTwo(), data=pairs, max_epochs=2)
    assert monitor.table().index.tolist() == [str(i) for i in range(N)]
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class JoinsLoaders(Classifier):
    """Trains on the samples of two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (x, y), (others, labels_of_others) = batch
        logits = self(torch.cat([x, others]) / N)
        self.remember(x, logits[: len(x)], y)
        return self.result(F.cross_entropy(logits, torch.cat([y, labels_of_others])), logits[: len(x)], y)

    def result(self, loss: Tensor, logits: Tensor, y: Tensor) -> Any:
        return loss


class ReturnsThoseOfOne(JoinsLoaders):
    def result(self, loss: Tensor, logits: Tensor, y: Tensor) -> Any:
        return {"loss": loss, "logits": logits, "targets": y}


def test_rows_of_another_loader_are_an_error_whose_advice_works(tmp_path: Path) -> None:
    def loaders() -> Any:
        return [loader(), loader(batch_size=3)]

    with pytest.raises(SampleIdentityError, match=r"adds rows of another loader.* `logits` and `targets` without them"):
        fit(
            tmp_path, TrainingDynamicsMonitor(history=False, loader=0), model=JoinsLoaders(), data=loaders, max_epochs=1
        )
    monitor = TrainingDynamicsMonitor(history=False, loader=0)
    module = fit(tmp_path, monitor, model=ReturnsThoseOfOne(), data=loaders, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
