"""What several runs on the same data say together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dynalens.dynamics import Array

_KEPT = ("root_index", "name", "label", "label_name", "target")


def compare_runs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the samples that all runs have seen, by their mean rank; the first is the most suspicious to all.

    Columns: those that name the sample and its label; ``suggested``, the class that most runs suggest, among equally
    frequent ones the smallest; ``suggested_in`` and ``flagged_in``, in how many runs it is suggested and the sample is
    flagged; ``mean_rank``; and ``rank_1``, ``rank_2``, ... of each run. Of samples with several labels or targets,
    ``unit`` is the one that most runs name and ``unit_in`` in how many; a label or target is that of the first run. Of
    a regression, ``prediction`` is the mean of the runs, and nothing is suggested.

    Args:
        tables: Two or more, as of :func:`~dynalens.suspicion.samples_table`, of the same dataset and labels.

    Raises:
        ValueError: If there are fewer than two, or if their ids or labels differ.
    """
    if len(tables) < 2:
        raise ValueError(
            f"Expected two or more runs to compare, got {len(tables)}. Pass the folders of runs on the same data."
        )
    for number, table in enumerate(tables[1:], start=2):
        _check_alike(tables[0], table, number)
    result = tables[0][[name for name in _KEPT if name in tables[0]]].copy()
    for name in ("unit", "suggested"):
        if name in tables[0]:
            numbers = np.array([table[name].to_numpy("float64", na_value=np.nan) for table in tables])
            values, counts = _modes(numbers)
            result[name], result[f"{name}_in"] = pd.array(values, "Int64"), counts
    if "prediction" in tables[0]:
        result["prediction"] = pd.concat([table["prediction"] for table in tables], axis=1).mean(axis=1)
    result["flagged_in"] = pd.concat([table["flagged"] for table in tables], axis=1).sum(axis=1)
    ranks = pd.concat([table["rank"] for table in tables], axis=1, keys=[f"rank_{i + 1}" for i in range(len(tables))])
    result["mean_rank"] = ranks.astype("Float64").mean(axis=1, skipna=False)
    result = result.join(ranks)
    return result[result["mean_rank"].notna()].sort_values("mean_rank", kind="stable")


def _modes(numbers: Array) -> tuple[Array, Array]:
    """Return the most frequent number of each column, the smallest of several, and how often it is there.

    pandas has the same as ``DataFrame.mode(axis=1)``, but takes half a millisecond for each row.

    Example:
        >>> _modes(np.array([[3.0, 1.0, np.nan], [2.0, 1.0, np.nan], [2.0, 0.0, 5.0]]))
        (array([2., 1., 5.]), array([2, 2, 1]))
    """
    counts = np.array([(numbers == row).sum(axis=0) for row in numbers])
    most = counts.max(axis=0)
    return np.where(counts == most, numbers, np.inf).min(axis=0), most


def _check_alike(first: pd.DataFrame, other: pd.DataFrame, number: int) -> None:
    if not first.index.equals(other.index) or not first["root_index"].equals(other["root_index"]):
        raise ValueError(
            f"Expected runs on the same samples, got {len(first)} in the first and {len(other)} in run {number}, "
            "or samples with other ids. Compare runs whose training dataset is the same, in the same order."
        )
    kind = "target" if "target" in first else "label"
    if kind not in other:
        raise ValueError(
            "Expected runs on the same labels, got classes in one run and numbers in another. Compare classifiers "
            "with classifiers, and regressions with regressions."
        )
    both = first[kind].notna() & other[kind].notna()
    if "unit" in first and "unit" in other:  # two runs may doubt two labels of a sample
        both &= (first["unit"] == other["unit"]).fillna(False).astype(bool)
    differ = int((first[kind][both] != other[kind][both]).sum())
    if differ:
        raise ValueError(
            f"Expected runs on the same labels, got {differ} samples with another label in run {number}. "
            "Compare runs that were trained on the same labels."
        )
