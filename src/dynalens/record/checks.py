"""What a record must be to be read: a folder may come from a stranger, or from a disk that failed."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from dynalens.dynamics import HISTORY, Array, SampleStatistics

MOST_CLASSES = 2**15
"""Classes that are read from disk: a matrix of all pairs of them takes 8 GiB."""
MOST_EPOCHS = 10**6
"""The names of files have six digits for the epoch."""
MOST_SAMPLES = 2**31
"""Rows of presentations have 32 bits."""
_FEW_EPOCHS = 1000
"""So many may show no sample, as where logits are not finite."""

_CLASSES = ("label", "predicted", "candidate")
_COUNTS = ("presentations", "forgetting_events")
_EPOCHS = ("first_learned", "last_forgotten")
_UNITS = ("unit", "unit_margin", "mean_margin")
"""What samples with several units have."""
_INTEGERS = (*_CLASSES, *_COUNTS, "unit", "unit_forgetting_events", "unit_columns", "unit_label")
_MATRICES = {"mean_probabilities": 2, "unit_margins": 2, "unit_residuals": 1, "unit_targets": 1}
"""What has a column for each class, label or target, and the fewest of these."""
_TARGETS = ("target", "prediction", "residual", "absolute_residual", "tolerance", "unit_residuals")
"""What a regression has."""
_FRACTIONS = (
    "confidence", "variability", "correctness", "probability_gap", "candidate_share", "weighted_confidence",
    "weighted_rival", "mean_probabilities",
)  # fmt: skip
"""What lies in [0, 1]."""
_ROUNDING = 1e-3
"""How far a mean of many float32 numbers may be out of its range, and more."""
_LARGEST = float(np.finfo(np.float32).max)
"""All numbers come from float32 logits: whatever is larger would overflow what is computed of them."""
_ASSESSED = ("margin", "confidence", "weighted_margin", "weighted_confidence", "weighted_rival")
"""Statistics that suspects are told by: every sample seen has them."""


def check_statistics(arrays: Mapping[str, Array]) -> None:
    """Raise a ValueError if these are not the statistics of one number of samples."""
    required_by_name = {field.name: field.default is MISSING for field in fields(SampleStatistics)}
    required_names = {name for name, is_required in required_by_name.items() if is_required}
    check_names(arrays, required_names, required_by_name)
    num_samples = len(np.atleast_1d(arrays["label"]))
    for name, values in arrays.items():
        if name != "unit_given":
            _check_kind(name, values, num_samples)
    for name in _CLASSES:
        check_range(name, arrays[name], -1, MOST_CLASSES)
    for name in _COUNTS:
        check_range(name, arrays[name], 0, 2**31)
    check_range("forgetting_events", arrays["forgetting_events"], 0, MOST_EPOCHS)  # a chart has a place for each number
    if (arrays["forgetting_events"] > arrays["presentations"]).any():
        raise ValueError("forgetting_events of more than the presentations")
    for name in _EPOCHS:
        check_range(name, np.nan_to_num(arrays[name], nan=0), 0, MOST_EPOCHS)
    _check_finite(arrays)
    _check_units(arrays)
    _check_given(arrays)
    _check_ranges(arrays)
    _check_agreement(arrays)


def check_rows(arrays: dict[str, Array]) -> tuple[Array, Array | None]:
    """Take what names the rows out of a record's arrays and return it: root index, and ids if there are any."""
    check_names(arrays, ["root_index", "label"], arrays)
    root_index, sample_ids = arrays.pop("root_index"), arrays.pop("sample_id", None)
    shape = arrays["label"].shape
    if root_index.shape != shape or root_index.dtype.kind not in "iu":
        raise ValueError(f"root_index of {root_index.dtype} and shape {root_index.shape} for labels of shape {shape}")
    if sample_ids is not None and (sample_ids.shape != shape or sample_ids.dtype.kind not in "iuU"):
        raise ValueError(f"sample_id of {sample_ids.dtype} and shape {sample_ids.shape} for labels of shape {shape}")
    check_range("root_index", root_index, -1, 2**62)
    if sample_ids is not None and len(np.unique(sample_ids)) < len(sample_ids):
        raise ValueError(f"sample_id of {len(np.unique(sample_ids))} different ids for {len(sample_ids)} samples")
    return root_index, sample_ids


def check_presentations(arrays: Mapping[str, Array], num_samples: int) -> None:
    """Raise a ValueError if these are not the presentations of one epoch of ``num_samples`` samples."""
    check_names(arrays, set(HISTORY) - {"p_other", "residual", "loss"}, HISTORY)
    for name, values in arrays.items():
        if values.shape != arrays["index"].shape or values.ndim != 1:
            raise ValueError(f"{name} of shape {values.shape} for index of shape {arrays['index'].shape}")
        if values.dtype.kind not in ("iu" if name in ("index", "predicted") else "f"):
            raise ValueError(f"{name} of {values.dtype}")
    check_range("index", arrays["index"], 0, num_samples)
    check_range("predicted", arrays["predicted"], 0, MOST_CLASSES)
    check_range("p_label", arrays["p_label"], 0, 1 + 1e-5)
    if "p_other" in arrays:
        check_range("p_other", np.nan_to_num(arrays["p_other"], nan=0), 0, 1 + 1e-5)
    if "loss" in arrays:
        check_range("loss", arrays["loss"], 0, np.inf)
    if not np.isfinite(arrays["margin"]).all():
        raise ValueError("margins that are not finite")


def check_meta(raw: Any, presentations: Array) -> None:
    """Raise a ValueError if this is not what goes with statistics of samples that were presented so often."""
    if not isinstance(raw, dict):
        raise ValueError(f"a {type(raw).__name__} instead of an object")
    names = ("num_samples", "epochs", "incomplete_epochs", "class_names", "version")
    check_names(raw, {"num_samples", "epochs"}, names)
    if raw["num_samples"] != len(presentations):
        raise ValueError(f"num_samples {_excerpt(raw['num_samples'])} where the arrays are of {len(presentations)}")
    max_epochs = max(int(presentations.sum(dtype=np.int64)), _FEW_EPOCHS)
    for name in ("epochs", "incomplete_epochs"):
        _check_epochs(name, raw.get(name, []), max_epochs)
    classes = raw.get("class_names")
    if classes is not None and not (is_texts(classes) and len(classes) <= MOST_CLASSES):
        raise ValueError(f"class_names {_excerpt(classes)} instead of names")


def check_names(entries: Collection[str], required_names: Collection[str], known_names: Collection[str]) -> None:
    """Raise a ValueError if there are others than these."""
    missing_names = sorted(set(required_names) - set(entries))
    foreign = sorted(map(str, set(entries) - set(known_names)))
    if missing_names:
        raise ValueError(f"no {', '.join(missing_names)}")
    if foreign:
        raise ValueError(f"the foreign entries {_excerpt(', '.join(foreign))}")


def check_range(name: str, values: Array, low: int, high: float) -> None:
    """Raise a ValueError unless all values are in [low, high)."""
    if len(values) and not (values.min() >= low and values.max() < high):
        raise ValueError(f"{name} from {values.min()} to {values.max()} instead of from {low} to less than {high:g}")


def is_texts(values: Any) -> bool:
    """Return whether this is a list of strings."""
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check_units(arrays: Mapping[str, Array]) -> None:
    for names, further_names in ((_UNITS, ()), (_TARGETS, ("unit",))):
        missing_names = {*names, *further_names} - arrays.keys()
        if missing_names and not arrays.keys().isdisjoint(names):
            raise ValueError(f"no {', '.join(sorted(missing_names))}")
    if "unit" in arrays:
        check_range("unit", arrays["unit"], -1, 2**31)
        _check_finite(arrays, ("unit_margin",))
    if "target" in arrays:
        _check_finite(arrays, _TARGETS[:-1])
        if "unit_targets" in arrays and arrays["unit_targets"].shape != arrays["unit_residuals"].shape:
            raise ValueError(f"unit_targets of shape {arrays['unit_targets'].shape} for unit_residuals of another one")


def _check_given(arrays: Mapping[str, Array]) -> None:
    if "unit_given" not in arrays:
        return
    unit_given, shape = arrays["unit_given"], arrays["unit_margins"].shape if "unit_margins" in arrays else None
    if unit_given.shape != shape or unit_given.dtype.kind not in "iu":
        raise ValueError(
            f"unit_given of {unit_given.dtype} and shape {unit_given.shape} for unit_margins of shape {shape}"
        )
    check_range("unit_given", unit_given.ravel(), -1, 2)


def _check_kind(name: str, values: Array, num_samples: int) -> None:
    if name in _MATRICES:
        has_form = values.ndim == 2 and _MATRICES[name] <= values.shape[1] <= MOST_CLASSES
    else:
        has_form = values.ndim == 1
    if not has_form or len(values) != num_samples:
        raise ValueError(f"{name} of shape {values.shape} for {num_samples} samples")
    if values.dtype.kind not in ("b" if name == "learned" else "iu" if name in _INTEGERS else "f"):
        raise ValueError(f"{name} of {values.dtype}")


def _check_finite(arrays: Mapping[str, Array], names: Collection[str] = _ASSESSED) -> None:
    for name in names:
        if not np.isfinite(arrays[name][arrays["presentations"] > 0]).all():
            raise ValueError(f"{name} that is not finite")


def _check_ranges(arrays: Mapping[str, Array]) -> None:
    """Raise where a number is none that its formula gives; NaN, of samples that were never seen, is none."""
    for name, values in arrays.items():
        if values.dtype.kind == "f":
            low, high = (-_ROUNDING, 1 + _ROUNDING) if name in _FRACTIONS else (-_LARGEST, _LARGEST)
            numbers = values[~np.isnan(values)]
            if len(numbers) and not (numbers.min() >= low and numbers.max() <= high):
                raise ValueError(f"{name} from {numbers.min():g} to {numbers.max():g}")
    for name in {"loss", "el2n", "expected_entropy", "absolute_residual", "unit_residuals"} & arrays.keys():
        if (arrays[name] < -_ROUNDING).any():
            raise ValueError(f"{name} below 0")
    if "tolerance" in arrays and (arrays["tolerance"] <= 0).any():
        raise ValueError("tolerance that is not above 0")


def _check_agreement(arrays: Mapping[str, Array]) -> None:
    """Raise where arrays contradict each other: each is then as it may be, and one of them is another record's."""
    is_seen = arrays["presentations"] > 0
    if (arrays["learned"] != np.isfinite(arrays["first_learned"])).any():
        raise ValueError("first_learned of samples that were not learned, or none of samples that were")
    if ((arrays["forgetting_events"] > 0) != np.isfinite(arrays["last_forgotten"])).any():
        raise ValueError("last_forgotten of samples that were not forgotten, or none of samples that were")
    if "target" not in arrays and (arrays["label"][is_seen] < 0).any():
        raise ValueError("label of no class of samples that were seen")
    if "unit" not in arrays and ((arrays["candidate"] >= 0) & (arrays["candidate"] == arrays["label"])).any():
        raise ValueError("candidate that is the label itself")
    for names, matrix_name in (
        (_CLASSES, "mean_probabilities"), (("unit",), "unit_margins"), (("unit",), "unit_residuals"),
    ):  # fmt: skip
        for name in names if matrix_name in arrays else ():
            check_range(name, arrays[name], -1, arrays[matrix_name].shape[1])


def _check_epochs(name: str, epochs: Any, max_epochs: int) -> None:
    if not isinstance(epochs, list) or not all(type(epoch) is int for epoch in epochs):
        raise ValueError(f"{name} {_excerpt(epochs)} instead of a list of numbers")
    if epochs and not (len(set(epochs)) == len(epochs) and min(epochs) >= 0 and max(epochs) < MOST_EPOCHS):
        raise ValueError(f"{name} {_excerpt(epochs)} instead of different numbers below {MOST_EPOCHS:,}")
    if len(epochs) > max_epochs:
        raise ValueError(f"{len(epochs):,} {name} where the arrays have {max_epochs:,} presentations at most")


def _excerpt(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
