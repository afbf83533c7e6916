"""What a user sees and acts on: the table of samples, the suspects, the clean ones, weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dynalens.defaults import PRECISION
from dynalens.dynamics import Array, EpochRecord, SampleStatistics
from dynalens.dynamics.uncertainty import uncertainty
from dynalens.suspicion.published_scores import named_scores
from dynalens.suspicion.score import Assessment, ranks, scaled_to_rate, streaming_score
from dynalens.suspicion.units import named_targets

_COUNT_COLUMNS = ("presentations", "forgetting_events")
_MEAN_COLUMNS = ("margin", "confidence", "variability", "correctness", "loss", "el2n", "probability_gap")
_UNIT_COLUMNS = ("unit_margin", "mean_margin", "unit_forgetting_events")
_CLASS_COLUMNS = ("el2n", "probability_gap")
_TARGET_COLUMNS = ("target", "prediction", "residual", "absolute_residual", "tolerance")


def samples_table(
    statistics: SampleStatistics,
    assessment: Assessment,
    *,
    class_names: Sequence[str] | None = None,
    root_index: Array | None = None,
    sample_ids: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    neighbours: Array | None = None,
    probe: Array | None = None,
) -> pd.DataFrame:
    """Return a table with one row for each of the N samples and the index ``sample_id``.

    ``docs/table.md`` explains its columns. ``flagged`` marks the top of the order, cut so that 80 % of it is expected
    to be wrong. A sample that was never seen has no score and no rank, and is not flagged. If samples have several
    units, the columns are about the worst one, ``unit``. For a regression the table has ``target``, ``prediction`` and
    ``residual`` instead of the columns of classes.

    Args:
        statistics: Statistics of the N samples.
        assessment: The result of :func:`assess` for them.
        class_names: Name of each class. Default: the columns of names are left out.
        root_index: Shape ``(N,)``, index in the dataset below all subsets. Default: the position.
        sample_ids: Id of each sample, strings or integers. Default: the position. With ids, a root index of -1 is
            shown as missing.
        names: Name of each sample, a path for instance. Default: the column ``name`` is left out.
        neighbours: Shape ``(N,)``, the :func:`neighbour_scores`. Default: ``score_neighbours`` is left out.
        probe: Shape ``(N,)``, scores of a linear probe of embeddings. Default: ``score_probe`` is left out.
    """
    columns: dict[str, Any] = {}
    index: pd.Index[Any] = pd.RangeIndex(len(statistics), name="sample_id")
    roots: Any = np.arange(len(statistics)) if root_index is None else root_index
    if sample_ids is not None:
        roots, index = _nullable(roots, roots >= 0), pd.Index(sample_ids, name="sample_id")
    if names is not None:
        columns["name"] = list(names)
    columns |= _label_columns(statistics, assessment, class_names)
    columns["rank"] = _nullable(ranks(assessment.score), ~np.isnan(assessment.score))
    columns["flagged"] = flagged(assessment.probability, PRECISION)
    columns |= {"wrong_probability": assessment.probability, "score": assessment.score}
    columns |= named_scores(statistics, assessment.probability_margin)
    embedding_scores = {"score_neighbours": neighbours, "score_probe": probe}
    columns |= {name: values for name, values in embedding_scores.items() if values is not None}
    columns |= _statistics_columns(statistics)
    columns["root_index"] = roots  # last, as it often says no more than the index
    return pd.DataFrame(columns, index=index)  # columns added one by one take twelve times as long


def flagged(probability: Array, precision: float) -> Array:
    """Return the largest set of the most probable ones whose mean probability is at least ``precision``.

    Args:
        probability: Shape ``(N,)``, that the label is wrong; NaN is never flagged.
        precision: In (0, 1].

    Raises:
        ValueError: If ``precision`` is out of its range.

    Example:
        >>> import numpy as np
        >>> flagged(np.array([0.2, 0.9, np.nan, 0.8]), 0.8)
        array([False,  True, False,  True])
    """
    if not 0 < precision <= 1:
        raise ValueError(
            f"Expected `precision` to be in (0, 1], got {precision}. Pass the fraction of wrong labels that you expect "
            "among the flagged ones, for instance 0.8."
        )
    order = np.argsort(-probability, kind="stable")  # NaN sorts last
    order = order[~np.isnan(probability[order])]
    mean_probability = np.cumsum(probability[order]) / np.arange(1, len(order) + 1)
    # A mean of equal probabilities may round to just below them.
    counts = 1 + np.flatnonzero((mean_probability >= precision - 1e-12) & (probability[order] > 0))
    is_flagged = np.zeros(len(probability), dtype=np.bool_)
    is_flagged[order[: counts[-1] if len(counts) else 0]] = True
    return is_flagged


def wrong_probabilities(statistics: SampleStatistics, rate: float) -> Array:
    """Return ``wrong_probability`` of :func:`samples_table` at this noise rate, ``(N,)``, without making the table."""
    score = streaming_score(statistics)
    rows = np.flatnonzero(~np.isnan(score))
    p_wrong: Array = np.full(len(score), np.nan)
    if len(rows):
        p_wrong[rows] = scaled_to_rate(score[rows], rate)[1]
    return p_wrong


def suspects(table: pd.DataFrame, n: int | None = None, precision: float | None = None) -> pd.DataFrame:
    """Return the rows of the samples that were seen, the most suspicious first.

    Args:
        table: The result of :func:`samples_table`.
        n: Largest number of rows. None: all of them.
        precision: Return only the top of the order, cut so that this fraction of it, in (0, 1], is expected to be
            wrong, and set ``flagged`` accordingly. None: all of them.

    Raises:
        ValueError: If ``precision`` is out of its range.
    """
    worst = table[table["rank"].notna()].sort_values("rank")
    if precision is not None:
        worst = worst.assign(flagged=flagged(worst["wrong_probability"].to_numpy(), precision))
        worst = worst[worst["flagged"]]
    return worst.head(len(worst) if n is None else n)


def worst_samples(statistics: SampleStatistics, n: int) -> list[int]:
    """Return the rows of the ``n`` most suspicious samples, the first of :func:`suspects`, without making the table."""
    order = np.argsort(-streaming_score(statistics), kind="stable")  # NaN, of samples never seen, sorts last
    worst: list[int] = order[: min(n, int((statistics.presentations > 0).sum()))].tolist()
    return worst


def overlap(newer: Array, older: Array) -> float:
    """Return how many samples are in both of two masks, of those in either; NaN if none is.

    Example:
        >>> overlap(np.array([True, True, False]), np.array([True, False, True]))
        0.3333333333333333
    """
    union_count = int((newer | older).sum())
    return int((newer & older).sum()) / union_count if union_count else float("nan")


def clean_indices(table: pd.DataFrame, precision: float | None = None) -> list[Any]:
    """Return the ids of the samples that are not flagged, int or str; those never seen count as clean."""
    is_flagged = table["flagged"] if precision is None else flagged(table["wrong_probability"].to_numpy(), precision)
    return table.index[~is_flagged].tolist()


def weights(table: pd.DataFrame) -> Array:
    """Return the probability that each label is right, shape ``(N,)``, float64; 1 for a sample never seen.

    A soft alternative to leaving samples out: the weight of each sample's loss.
    """
    p_right: Array = 1 - table["wrong_probability"].fillna(0).to_numpy()
    return p_right


def epoch_summary(statistics: SampleStatistics, epoch: EpochRecord) -> dict[str, float]:
    """Return the numbers of an epoch that are worth a curve; ``docs/tensorboard.md`` says what each is."""
    has_presentations = statistics.presentations > 0
    return {
        "forgotten": epoch.forgotten,
        "learned": epoch.learned,
        "never_learned": int((has_presentations & ~statistics.learned).sum()),
        "train_accuracy": epoch.accuracy,
        "mean_margin": float(epoch.margin.mean(dtype=np.float64)) if len(epoch.margin) else float("nan"),
        "non_finite": epoch.non_finite,
    }


def _statistics_columns(statistics: SampleStatistics) -> dict[str, Any]:
    """Return the columns that the record itself holds, and those that follow from its mean probabilities."""
    columns: dict[str, Any] = {name: getattr(statistics, name).astype(np.int64) for name in _COUNT_COLUMNS}
    columns["learned"] = statistics.learned
    for name in ("first_learned", "last_forgotten"):
        values = getattr(statistics, name)
        columns[name] = _nullable(np.nan_to_num(values, nan=-1), ~np.isnan(values))
    columns |= {
        name: getattr(statistics, name)
        for name in _MEAN_COLUMNS
        if statistics.target is None or name not in _CLASS_COLUMNS
    }
    if statistics.mean_probabilities is not None:
        columns |= uncertainty(statistics.mean_probabilities, statistics.expected_entropy)
    arrays = statistics.arrays()
    columns |= {name: arrays[name] for name in _UNIT_COLUMNS if name in arrays}
    if statistics.target is None:
        columns["predicted"] = _nullable(statistics.predicted, statistics.predicted >= 0)
    return columns


def _label_columns(
    statistics: SampleStatistics, assessment: Assessment, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return the columns that say what was given and what is suggested, for the worst unit where there are several."""
    if statistics.target is not None:
        return _target_columns(statistics, class_names)
    label_code, suggestion_code, code_names = named_targets(statistics, class_names)
    columns: dict[str, Any] = {}
    if statistics.unit is not None:
        columns |= _unit_columns(statistics.unit, statistics.unit_columns)
    else:
        suggestion_code = assessment.suggested
    unit_label = statistics.unit if statistics.unit_margins is not None else statistics.unit_label
    if statistics.unit_label is not None:
        columns["unit_label"] = _nullable(statistics.unit_label, statistics.unit_label >= 0)
    if class_names is not None and unit_label is not None:
        columns["unit_name"] = _names_of(unit_label, class_names)
    for name, classes, code in (
        ("label", statistics.label, label_code),
        ("suggested", assessment.suggested, suggestion_code),
    ):
        columns[name] = _nullable(classes, classes >= 0)
        if class_names is not None and code_names is not None:
            columns[f"{name}_name"] = _names_of(code, code_names)
    return columns | {"suggested_probability": assessment.suggested_probability, "agreement": assessment.agreement}


def _unit_columns(unit: Array, unit_columns: Array | None) -> dict[str, Any]:
    """Return the columns that say where the worst unit is; of a pixel also its row and column."""
    has_unit = unit >= 0
    columns: dict[str, Any] = {"unit": _nullable(unit, has_unit)}
    if unit_columns is not None:
        row, column = np.divmod(unit, np.maximum(unit_columns, 1))
        columns |= {"unit_row": _nullable(row, has_unit), "unit_column": _nullable(column, has_unit)}
    return columns


def _target_columns(statistics: SampleStatistics, target_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of the worst target of each sample, and which one it is where there are several."""
    assert statistics.unit is not None
    assert statistics.unit_residuals is not None
    columns: dict[str, Any] = {}
    if statistics.unit_residuals.shape[1] > 1:
        columns["unit"] = _nullable(statistics.unit, statistics.unit >= 0)
        if target_names is not None:
            columns["unit_name"] = _names_of(statistics.unit, target_names)
    return columns | {name: getattr(statistics, name) for name in _TARGET_COLUMNS}


def _nullable(values: Array, has_value: Array) -> "pd.arrays.IntegerArray":
    return pd.arrays.IntegerArray(values.astype(np.int64), ~has_value)


def _names_of(classes: Array, class_names: Sequence[str]) -> list[str | None]:
    return [class_names[c] if 0 <= c < len(class_names) else None for c in classes.tolist()]
