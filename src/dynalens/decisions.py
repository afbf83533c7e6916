"""What a person decided about labels, and a dataset in which it is so."""

import csv
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynalens.keys import LABEL_KEYS

DECISIONS = ("keep", "relabel", "drop")


class Decision(NamedTuple):
    """What is to happen to a sample.

    Attributes:
        label: The label that was looked at; None if the file does not say.
        decision: "keep", "relabel" or "drop".
        new_label: Class to use instead of it, for "relabel".
        new_label_name: Its name, where it has one.
    """

    label: int | None
    decision: str
    new_label: int | None = None
    new_label_name: str = ""


class DecidedDataset(Dataset[Any]):
    """A dataset without the samples that were dropped and with the labels that were corrected.

    Samples are loaded from the original when they are asked for; the original is not changed.

    Attributes:
        dataset: The original.
        indices: Position of each sample in the original.
        relabelled: New class by position in the original.
        classes: The original's, if it has them.
    """

    def __init__(self, dataset: Any, decisions: Mapping[int, Decision], label_key: int | str | None = None) -> None:
        self.dataset = dataset
        self.classes = _classes(dataset)
        self._decisions = {i: d for i, d in decisions.items() if d.decision == "relabel"}
        self._label_key = label_key
        dropped = {i for i, d in decisions.items() if d.decision == "drop"}
        self.indices = [i for i in range(len(dataset)) if i not in dropped]
        self.relabelled = {i: d.new_label for i, d in self._decisions.items()}

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Any:
        index = self.indices[position]
        item = self.dataset[index]
        decision = self._decisions.get(index)
        return item if decision is None else _relabelled(item, index, decision, self._label_key)


def apply_decisions(
    dataset: Any, path: str | Path, *, sample_ids: Sequence[str] | None = None, label_key: int | str | None = None
) -> DecidedDataset:
    r"""Return the dataset with the decisions of a file applied: dropped samples gone, corrected labels in place.

    The file is the ``decisions.csv`` that the page of ``dynalens report`` gives; samples that are kept or not named
    in it stay as they are. A label is checked against the one that was decided on when its sample is loaded.

    Args:
        dataset: Map-style, as it was trained on; not modified. Items are tuples or lists (input, label, ...) or dicts.
        path: The CSV file with the columns sample_id, decision, new_label and, optionally, label and names.
        sample_ids: Id of each sample, where the record's ids are not the positions in the dataset.
        label_key: Where the label stands in an item; default: position 1, or one of the usual keys of a dict.

    Raises:
        ValueError: If a row has an unknown sample, decision or class, or a sample has two rows.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "decisions.csv")
        >>> _ = file.write_text("sample_id,decision,new_label\n0,drop,\n2,relabel,1\n")
        >>> list(apply_decisions([("a", 0), ("b", 0), ("c", 0)], file))
        [('b', 0), ('c', 1)]
    """
    classes, positions = _classes(dataset), None
    if sample_ids is not None:
        positions = {str(sample): position for position, sample in enumerate(sample_ids)}
    decisions: dict[int, Decision] = {}
    for line, row in _rows(Path(path)):
        index = _position(row["sample_id"], len(dataset), positions, line)
        if index in decisions:
            raise ValueError(
                f"Expected one row for each sample, got a second one for sample {row['sample_id']} in line {line}. "
                "Leave one of them."
            )
        decisions[index] = _decision(row, classes, line)
    return DecidedDataset(dataset, decisions, label_key)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"sample_id", "decision", "new_label"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"Expected `path` to have the columns sample_id, decision and new_label, got {reader.fieldnames} in "
                f"{path}. Download the decisions from the page of `dynalens report`."
            )
        for row in reader:
            yield reader.line_num, {name: value or "" for name, value in row.items() if name is not None}


def _position(sample: str, length: int, positions: Mapping[str, int] | None, line: int) -> int:
    if positions is not None:
        index = positions.get(sample, -1)
    else:
        index = int(sample) if sample.isascii() and sample.isdigit() else -1
    if not 0 <= index < length:
        known = "one of `sample_ids`" if positions is not None else f"in [0, {length})"
        raise ValueError(
            f"Expected `sample_id` to be {known}, got {sample!r} in line {line}. Pass the dataset that was trained on."
        )
    return index


def _decision(row: Mapping[str, str], classes: Sequence[str] | None, line: int) -> Decision:
    if row["decision"] not in DECISIONS:
        raise ValueError(
            f"Expected `decision` to be one of {', '.join(DECISIONS)}, got {row['decision']!r} in line {line}. "
            "Leave out rows that are not decided."
        )
    given = row.get("label", "")
    label = int(given) if given.isascii() and given.isdigit() else None
    if row["decision"] != "relabel":
        return Decision(label, row["decision"])
    text, name = row["new_label"], row.get("new_label_name", "")
    new = int(text) if text.isascii() and text.isdigit() else -1
    if new < 0 or (classes is not None and new >= len(classes)):
        known = f"a class in [0, {len(classes)})" if classes is not None else "the number of a class"
        raise ValueError(
            f"Expected `new_label` to be {known}, got {text!r} in line {line}. Choose a class that exists."
        )
    if name and classes is not None and name not in (classes[new], str(new)):
        raise ValueError(
            f"Expected `new_label_name` of class {new} to be {classes[new]!r}, got {name!r} in line {line}. "
            "Pass the dataset whose classes were shown."
        )
    return Decision(label, "relabel", new, name)


def _relabelled(item: Any, index: int, decision: Decision, key: int | str | None) -> Any:
    at = _label_key(item, index) if key is None else key
    given = item[at]
    if decision.label is not None and int(given) != decision.label:
        raise ValueError(
            f"Expected sample {index} to have the label {decision.label} that was decided on, got {int(given)}. "
            "Pass the dataset that was trained on, before any correction."
        )
    new = _like(given, decision.new_label)
    if isinstance(item, MutableMapping):
        return type(item)({**item, at: new})  # type: ignore[call-arg]  # dict and its kin
    parts = [new if position == at else part for position, part in enumerate(item)]
    # A named tuple takes its fields one by one.
    return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)


def _label_key(item: Any, index: int) -> int | str:
    if isinstance(item, Mapping):
        found: list[int | str] = [key for key in LABEL_KEYS if key in item]
    else:
        found = [1] if isinstance(item, tuple | list) and len(item) > 1 else []
    if not found:
        raise ValueError(
            f"Expected sample {index} to be (input, label, ...) or a dict with one of {', '.join(LABEL_KEYS)}, got "
            f"a {type(item).__name__}. Pass `label_key=`."
        )
    return found[0]


def _like(given: Any, new: int | None) -> Any:
    """Return the class in the type of the label it replaces."""
    if isinstance(given, Tensor):
        return torch.full_like(given, new or 0)
    return given.dtype.type(new) if isinstance(given, np.generic) else new


def _classes(dataset: Any) -> list[str] | None:
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    named = isinstance(classes, list | tuple) and classes and all(isinstance(name, str) for name in classes)
    return list(classes) if named and classes else None
