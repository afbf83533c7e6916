"""Networks of tables are given columns of numbers and of integers: what is explained of them, and what is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dynalens import TrainingDynamicsMonitor
from training import Classifier, K, N, arrays_of, attribution_monitor, fit, labels, loader

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing"),
]
LEVELS = 5


class Table(Dataset[Any]):
    """Four columns of numbers and three of integers, as pytorch-tabular gives them."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(2)
        self.continuous = torch.randn(N, 4, generator=drawn)
        self.categorical = torch.randint(0, LEVELS, (N, 3), generator=drawn)

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return {
            "continuous": self.continuous[index],
            "categorical": self.categorical[index],
            "target": labels()[index],
        }


class InTuples(Table):
    def __getitem__(self, index: int) -> Any:
        return self.categorical[index], self.continuous[index], labels()[index]


class OfDict(Classifier):
    """Its `forward` takes the whole batch, and has an embedding for each column of integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.ModuleList([nn.Embedding(LEVELS, 2) for _ in range(3)])
        self.net = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, K))

    def columns(self, continuous: Tensor, categorical: Tensor) -> Tensor:
        embedded = [embedding(categorical[:, k]) for k, embedding in enumerate(self.embeddings)]
        return torch.as_tensor(self.net(torch.cat([*embedded, continuous], dim=1)))

    def forward(self, batch: Any) -> Any:
        return {"logits": self.columns(batch["continuous"], batch["categorical"])}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch)["logits"], batch["target"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class OfArguments(OfDict):
    """Its `forward` takes both kinds of columns, and one embedding has all those of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LEVELS, 2)

    def columns(self, continuous: Tensor, categorical: Tensor) -> Tensor:
        return torch.as_tensor(self.net(torch.cat([self.embedding(categorical).flatten(1), continuous], dim=1)))

    def forward(self, continuous: Tensor, categorical: Tensor) -> Tensor:  # type: ignore[override]
        return self.columns(continuous, categorical)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["continuous"], batch["categorical"]), batch["target"])


class OfTuples(OfArguments):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[1], batch[0]), batch[2])


@pytest.mark.parametrize(("model", "data"), [(OfDict, Table), (OfArguments, Table), (OfTuples, InTuples)])
def test_a_network_with_several_inputs_is_told_once_and_training_goes_on(
    tmp_path: Path, model: type[OfDict], data: type[Table]
) -> None:
    monitors = TrainingDynamicsMonitor(), attribution_monitor(methods="saliency", metrics=())
    with pytest.warns(UserWarning, match=r"got one that is given batch\[.*\] and batch\[.*If they are columns") as told:
        module = fit(
            tmp_path, *monitors, model=model(), data=lambda: loader(data()), val=lambda: loader(data(), shuffle=False)
        )
    assert len([one for one in told if "switched off" in str(one.message)]) == 1
    without = fit(
        tmp_path / "without", model=model(), data=lambda: loader(data()), val=lambda: loader(data(), shuffle=False)
    )
    for name, values in without.state_dict().items():
        assert torch.equal(values, module.state_dict()[name])
    assert monitors[0].table()["presentations"].eq(3).all()


class Rows(nn.Module):
    """All columns in a row."""

    def __init__(self, module: OfDict) -> None:
        super().__init__()
        self.module = module

    def forward(self, columns: Tensor) -> Tensor:
        return self.module.columns(columns[..., :4].flatten(1), columns[..., 4:].flatten(1).long())


def test_the_advice_for_columns_of_integers_works(tmp_path: Path) -> None:
    module, data = OfArguments(), Table()
    monitor = attribution_monitor(
        num_samples=3,
        inputs=lambda batch: (torch.cat([batch["continuous"], batch["categorical"].float()], dim=1), batch["target"]),
        forward=lambda pl_module, columns: pl_module(columns[:, :4], columns[:, 4:].long()),
        methods=("captum:FeatureAblation",),
        on_error="raise",
    )
    fit(tmp_path, monitor, model=module, max_epochs=1, data=lambda: loader(data, shuffle=False))
    written = arrays_of(tmp_path / "dynalens" / "explanations" / "epoch_000000.npz")
    rows, y = torch.cat([data.continuous, data.categorical.float()], dim=1)[:3], labels()[:3]
    with torch.no_grad():
        logits = module(data.continuous[:3], data.categorical[:3])
        np.testing.assert_allclose(written["logits"], logits, rtol=1e-5)
        falls = torch.stack([logits - Rows(module)(_without(rows, column)) for column in range(7)], dim=2)
    expected = falls[torch.arange(3), y]
    scale = expected.abs().amax(dim=1, keepdim=True)
    np.testing.assert_allclose(np.abs(written["captum:FeatureAblation.maps"]), (expected / scale).abs(), atol=1e-3)


def _without(rows: Tensor, column: int) -> Tensor:
    rows = rows.clone()
    rows[:, column] = 0
    return rows
