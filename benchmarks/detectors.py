"""Detectors of wrong labels that learn from trajectories whose wrong labels are known.

A fit takes trajectories (N, 12, columns), which labels are wrong (N,) and a seed, and yields a scorer after each pass
over them; cheap models need one. A scorer takes trajectories of 3, 5 or 12 epochs; higher is more suspicious.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

Array = npt.NDArray[Any]
Scorer = Callable[[Array], Array]
Fit = Callable[[Array, Array, int], Iterator[Scorer]]

PERIODS = 12
LENGTHS = (3, 5, PERIODS)
PASSES = 4  # at most; which is the best shows on data left out


class Lstm(nn.Module):
    """Two layers of 64 units, started like the source's; the last output gives the log odds of a wrong label."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(columns, 64, 2, batch_first=True)
        self.head = nn.Linear(64, 1)
        for name, parameter in self.layers.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.constant_(parameter, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return log odds (N,) of x (N, P, columns)."""
        log_odds: Tensor = self.head(self.layers(x)[0][:, -1])[:, 0]
        return log_odds

    @torch.no_grad()
    def score(self, x: Array) -> Array:
        """Return the same as arrays."""
        values: Array = torch.cat([self(part) for part in torch.split(torch.from_numpy(x), 5000)]).numpy()
        return values


def lstm(x: Array, wrong: Array, seed: int) -> Iterator[Scorer]:
    """Yield the network after each pass, the same one; half of the batches are cut to the shorter lengths."""
    torch.manual_seed(seed)
    net = Lstm(x.shape[2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(wrong).float()
    lengths = (*LENGTHS, PERIODS)
    for _ in range(PASSES):
        for index in torch.split(torch.randperm(len(x)), 256):
            length = lengths[int(torch.randint(len(lengths), ()))]
            loss = F.binary_cross_entropy_with_logits(net(inputs[index, :length]), targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type here
            optimizer.step()
        yield net.score


def by_length(make: Callable[[int], Any]) -> Fit:
    """Return a fit of one model for each length."""

    def fit(x: Array, wrong: Array, seed: int) -> Iterator[Scorer]:
        fitted = {length: make(seed).fit(x[:, :length].reshape(len(x), -1), wrong) for length in LENGTHS}
        yield lambda x: fitted[x.shape[1]].predict_proba(x.reshape(len(x), -1))[:, 1]

    return fit


def _boosting(seed: int) -> Any:
    return HistGradientBoostingClassifier(max_iter=200, learning_rate=0.05, max_leaf_nodes=15, random_state=seed)


def _logistic(_: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


MODELS: dict[str, Fit] = {"LSTM": lstm, "boosting": by_length(_boosting), "logistic": by_length(_logistic)}
