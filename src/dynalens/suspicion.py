"""From the record to suspects: which labels are probably wrong."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dynalens.dynamics import Array, EpochRecord, SampleStatistics

_COUNTS = ("presentations", "forgetting_events")
_MEANS = ("margin", "confidence", "variability", "correctness", "loss", "el2n", "probability_gap")


def suggested_labels(statistics: SampleStatistics, history: Iterable[Mapping[str, Array]]) -> Array:
    """Return the class that each sample's predictions named most often instead of its label.

    The exact plurality over the history of predictions that disagree with the label; among equally frequent ones
    the most recent. Where there is no history, the record's majority sketch
    (:attr:`SampleStatistics.candidate`), which is exact if one class has more than half of those predictions.

    Args:
        statistics: The record.
        history: For each epoch, in order, the arrays ``index`` and ``predicted`` of its presentations.

    Returns:
        Shape ``(N,)``, int64; -1 where no prediction disagreed.

    Example:
        >>> import numpy as np, torch
        >>> from dynalens.dynamics import TrainingDynamics
        >>> dynamics = TrainingDynamics(1)
        >>> dynamics.update([0, 0, 0], torch.eye(3)[[2, 1, 2]], torch.tensor([0, 0, 0]))
        >>> epoch = dynamics.end_epoch(0)
        >>> suggested_labels(dynamics.compute(), [{"index": epoch.index, "predicted": epoch.predicted}])
        array([2])
    """
    votes = [_disagreeing(statistics.label, epoch) for epoch in history]
    if not votes:
        return statistics.candidate.astype(np.int64)
    vote = np.concatenate(votes, axis=1)[:, ::-1]  # the most recent first
    index, predicted = vote
    suggested = np.full(len(statistics), -1, dtype=np.int64)
    if not index.size:
        return suggested
    classes = int(predicted.max()) + 1
    pair, latest, count = np.unique(index * classes + predicted, return_index=True, return_counts=True)
    # Last assignment wins: by count, then by how recent the vote is.
    order = np.lexsort((-latest, count))
    suggested[pair[order] // classes] = pair[order] % classes
    return suggested


def samples_table(
    statistics: SampleStatistics,
    *,
    suggested: Array,
    class_names: Sequence[str] | None = None,
    root_index: Array | None = None,
) -> pd.DataFrame:
    """Return one row for each of the N samples, index ``sample_id``.

    ``score`` is minus the mean margin (Pleiss et al. 2020), so higher is more suspicious; ``rank`` 1 is the most
    suspicious, ``flagged`` is a mean margin below zero: over training, another class was ahead of the label.
    A sample never seen has no score and no rank and is not flagged.

    Args:
        statistics: The record.
        suggested: Shape ``(N,)``, class suggested instead of the label; -1 for none.
        class_names: Name of each class; without it the name columns are left out.
        root_index: Shape ``(N,)``, index in the dataset below all subsets.
    """
    n = len(statistics)
    score = -statistics.margin
    table = pd.DataFrame(index=pd.RangeIndex(n, name="sample_id"))
    table["root_index"] = np.arange(n) if root_index is None else root_index
    for name, classes in (("label", statistics.label), ("suggested", suggested)):
        table[name] = _nullable(classes, classes >= 0)
        if class_names is not None:
            table[f"{name}_name"] = _names(classes, class_names)
    table["rank"] = _nullable(_ranks(score), ~np.isnan(score))
    table["flagged"] = statistics.margin < 0
    table["score"] = score
    for name in _COUNTS:
        table[name] = getattr(statistics, name).astype(np.int64)
    table["learned"] = statistics.learned
    for name in ("first_learned", "last_forgotten"):
        values = getattr(statistics, name)
        table[name] = _nullable(np.nan_to_num(values, nan=-1), ~np.isnan(values))
    for name in _MEANS:
        table[name] = getattr(statistics, name)
    table["predicted"] = _nullable(statistics.predicted, statistics.predicted >= 0)
    return table


def suspects(table: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Return the rows of the samples that were seen, the most suspicious first; the first ``n`` of them."""
    return table[table["rank"].notna()].sort_values("rank").head(len(table) if n is None else n)


def worst_samples(statistics: SampleStatistics, n: int) -> list[int]:
    """Return the ids of the ``n`` most suspicious samples that were seen, worst first, without making the table."""
    score = np.where(statistics.presentations > 0, statistics.margin, np.inf)
    n = min(n, int(np.isfinite(score).sum()))
    worst = np.argpartition(score, n - 1)[:n] if n else np.arange(0)
    return [int(i) for i in worst[np.lexsort((worst, score[worst]))]]


def flagged_overlap(now: Array, before: Array) -> float:
    """Return how many samples are flagged in both of two masks, of those flagged in either; NaN if none is.

    Example:
        >>> flagged_overlap(np.array([True, True, False]), np.array([True, False, True]))
        0.3333333333333333
    """
    either = int((now | before).sum())
    return int((now & before).sum()) / either if either else float("nan")


def clean_indices(table: pd.DataFrame) -> list[int]:
    """Return the ids of the samples that are not flagged; those never seen count as clean."""
    return [int(i) for i in table.index[~table["flagged"]]]


def epoch_summary(statistics: SampleStatistics, epoch: EpochRecord) -> dict[str, float]:
    """Return the numbers of an epoch that are worth a curve; the README's table of tags says what each is."""
    seen = statistics.presentations > 0
    return {
        "forgotten": epoch.forgotten,
        "learned": epoch.learned,
        "never_learned": int((seen & ~statistics.learned).sum()),
        "suspects": int((statistics.margin < 0).sum()),
        "train_accuracy": epoch.accuracy,
        "mean_margin": float(epoch.margin.mean()) if len(epoch.margin) else float("nan"),
        "non_finite": epoch.non_finite,
    }


def _disagreeing(label: Array, epoch: Mapping[str, Array]) -> Array:
    index, predicted = epoch["index"].astype(np.int64), epoch["predicted"].astype(np.int64)
    disagrees = predicted != label[index]
    return np.stack([index[disagrees], predicted[disagrees]])


def _ranks(score: Array) -> Array:
    ranks = np.empty(len(score), dtype=np.int64)
    ranks[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1)  # NaN sorts last
    return ranks


def _nullable(values: Array, present: Array) -> "pd.Series[int]":
    series = pd.Series(values.astype(np.int64), dtype="Int64", index=pd.RangeIndex(len(values), name="sample_id"))
    return series.where(present)


def _names(classes: Array, class_names: Sequence[str]) -> list[str | None]:
    return [class_names[c] if 0 <= c < len(class_names) else None for c in classes.tolist()]
