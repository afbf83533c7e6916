"""Apply to a dataset what a person decided about its labels."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch.utils.data import Subset

from dynalens.cells import sources_in, text_cells
from dynalens.datasets import (
    check_labels,
    class_names,
    label_place,
    label_text,
    root_indices,
    sample_names,
    samples_at,
    targets_with,
    with_label,
)
from dynalens.keys import ANSWERS, DECISIONS, LABEL_KEYS
from dynalens.notices import warn
from dynalens.text import escaped, escaped_all, is_same_label, labels_in, plain, whole
from dynalens.unit_labels import checksum_of, is_checksum, labels_of

DecisionsSource = str | Path | pd.DataFrame
_ORIGIN = "the file that the page of `dynalens report` or `dynalens audit` exports"


class Decision(NamedTuple):
    """The decision about one sample: a row of the file.

    Attributes:
        line: Number of the line in the file; if there are several files, also the name of the file.
        sample: Id of the sample, as the file has it.
        name: Name of the sample, as the file has it. Empty: the file has none.
        label: Label that the person saw, as the file has it. Empty: the file has none.
        decision: "keep", "relabel" or "drop".
        new_label: For "relabel", the new class, or the numbers of all new labels as text. Otherwise None.
        new_label_name: Name of the new class. Empty: the file has none.
    """

    line: str
    sample: str
    name: str
    label: str
    decision: str
    new_label: int | str | None = None
    new_label_name: str = ""


class DecidedDataset(Subset[Any]):
    """A dataset without the samples that were dropped and with the labels that were corrected.

    :func:`apply_decisions` returns one. It reads each sample from the original dataset, which is not changed. Because
    it is a ``Subset``, a record of the next training names each sample and its position in the original dataset.

    Attributes:
        dataset: The original dataset.
        indices: Position of each sample in the original dataset.
        relabelled: For the position of a relabelled sample in the original dataset, its new label.
        classes: Names of the classes, or None if the original dataset has none.
    """

    def __init__(self, dataset: Any, decisions: Mapping[int, Decision], label_key: int | str | None = None) -> None:
        dropped_rows = {i for i, decision in decisions.items() if decision.decision == "drop"}
        super().__init__(dataset, [i for i in range(len(dataset)) if i not in dropped_rows])
        self.classes = class_names(dataset)
        self.relabelled = {
            i: d.new_label for i, d in decisions.items() if d.new_label is not None and i not in dropped_rows
        }
        self._label_key = label_key
        self._old_labels = {i: decision.label for i, decision in decisions.items()}

    @property
    def class_to_idx(self) -> Any:
        """Number of each class by its name; no attribute if the original dataset has none."""
        return self.dataset.class_to_idx  # type: ignore[attr-defined]  # torch's stub has no attributes of datasets

    @cached_property
    def targets(self) -> Any:
        """The labels of these samples; no attribute if the original dataset has none, or none that are its labels."""
        targets = targets_with(self.dataset, self.relabelled, self._is_replaced)
        return [targets[i] for i in self.indices] if isinstance(targets, list) else targets[self.indices]

    def _is_replaced(self, sample: int, target: Any) -> bool:
        with suppress(TypeError, ValueError):
            label = self._old_labels[sample]
            return not label or not _differs(target, label, escaped_all(self.classes) or ())
        return False

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: Any) -> Any:
        index = self.indices[position]
        return self._relabel(index, self.dataset[index])

    def __getitems__(self, positions: list[int]) -> list[Any]:
        """Return several samples, as :func:`dynalens.datasets.samples_at` reads them."""
        indices = [self.indices[position] for position in positions]
        samples = samples_at(self.dataset, indices)
        return [self._relabel(index, sample) for index, sample in zip(indices, samples, strict=True)]

    def _relabel(self, index: int, sample: Any) -> Any:
        label = self.relabelled.get(index)
        return sample if label is None else with_label(sample, label_place(sample, self._label_key), label)


def apply_decisions(
    dataset: Any,
    path: DecisionsSource | Sequence[DecisionsSource],
    *,
    sample_ids: Sequence[str] | None = None,
    label: int | str | None = None,
    label_key: int | str | None = None,
) -> DecidedDataset:
    r"""Return the dataset without the samples that a person dropped, and with the labels that a person corrected.

    The file is the ``decisions.csv`` from the page of ``dynalens report``, or the answers of an audit
    (:func:`dynalens.audit`). Samples with the decision "keep" and samples that the file does not name stay as they are.
    In answers of an audit, a wrong label is replaced by its new label. If the file has no new label for it, the sample
    is dropped. Samples with the answer "right" or "unsure" stay.

    If the dataset knows names (``samples`` of torchvision's image folders), a row with a name is about the sample of
    that name, wherever it stands now. All labels in the file are first compared with those of the dataset. If one row
    does not fit, the whole file is refused, because its samples may have moved. A file without a decision gives a
    warning, and the dataset stays as it is.

    Args:
        dataset: The map-style dataset that was trained on. Not modified. Its items are tuples or lists (input, label,
            ...) or dicts. The items that the file names are read once, to see their labels.
        path: The CSV file or the table, or a list of them, for instance the answers of several rounds. The columns are
            sample_id, decision, new_label and, optionally, label, name and the names of classes; or sample_id, answer
            and, optionally, new_label, label and name. Classes are numbers or names.
        sample_ids: Id of each sample. Default: the ids in the file are positions in the dataset.
        label: Where the label stands in an item, see :class:`~dynalens.RelabelledDataset`.
        label_key: The same, under its earlier name.

    Raises:
        ValueError: If a row has an unknown sample, decision or class, if two rows of a sample do not say
            the same, or if rows do not fit the names or labels of the dataset. The message lists these rows.
        TypeError: If it is neither a file nor a table.
        FileNotFoundError: If there is no such file.

    Example:
        Sample 0 is dropped, and sample 2 gets the label 1.

        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "decisions.csv")
        >>> _ = file.write_text("sample_id,decision,new_label\n0,drop,\n2,relabel,1\n")
        >>> list(apply_decisions([("a", 0), ("b", 0), ("c", 0)], file))
        [('b', 0), ('c', 1)]
    """
    classes = escaped_all(class_names(dataset))
    rows = [_decision(row, classes, line) for line, row in _rows(sources_in(path))]
    if not rows:
        warn(
            f"Expected a decision in {_place(path)}, got none, so the dataset stays as it is. Decide on the page, and "
            "download the file again."
        )
    decisions, place = _decisions_by_position(rows, dataset, sample_ids), label_key if label is None else label
    _check_labels(decisions, dataset, place, classes or ())
    return DecidedDataset(dataset, decisions, place)


def _rows(sources: Sequence[DecisionsSource]) -> Iterator[tuple[str, dict[str, str]]]:
    """Return each line of the files with its number; of several files, also with the name of its file."""
    for source in sources:
        table = text_cells(source, "path", _ORIGIN)
        is_answers = {"sample_id", "answer"} <= set(table) and "decision" not in table
        if not is_answers and not {"sample_id", "decision", "new_label"} <= set(table):
            raise ValueError(
                "Expected `path` to have the columns sample_id, decision and new_label, or sample_id and answer, got "
                f"{list(table)!s:.200} in {_place(source)}. Take {_ORIGIN}."
            )
        place = "" if len(sources) == 1 or isinstance(source, pd.DataFrame) else f" of {source}"
        for line, row in zip(table.index, table.to_dict("records"), strict=True):
            cells = {
                str(name): plain(cell if name in ("sample_id", "name") else cell.strip()) for name, cell in row.items()
            }
            if not is_answers:
                yield f"{line}{place}", {**cells, "decision": cells["decision"].lower()}
            elif cells["answer"]:
                yield f"{line}{place}", _decision_of_answer(cells, f"{line}{place}")


def _place(source: DecisionsSource | Sequence[DecisionsSource]) -> str:
    return "the table" if isinstance(source, pd.DataFrame) else str(source)


def _decision_of_answer(cells: dict[str, str], line: str) -> dict[str, str]:
    """Return what an answer of an audit decides."""
    answer = cells["answer"].lower()
    if answer not in ANSWERS:
        raise ValueError(
            f"Expected `answer` to be one of {', '.join(ANSWERS)}, got {cells['answer']!r} in line {line}. Leave out "
            "rows that were not answered."
        )
    new_label = cells.get("new_label", "") if answer == "wrong" else ""
    decision = "keep" if answer != "wrong" else "relabel" if new_label else "drop"
    return {**cells, "decision": decision, "new_label": new_label}


def _decisions_by_position(
    rows: Sequence[Decision], dataset: Any, sample_ids: Sequence[str] | None
) -> dict[int, Decision]:
    """Return each decision by the position of its sample."""
    ids = None if sample_ids is None else {escaped(str(sample)): position for position, sample in enumerate(sample_ids)}
    names = escaped_all(sample_names(dataset, root_indices(dataset)))
    by_name = {} if names is None else {name: position for position, name in enumerate(names)}
    repeated_names = {name for name, times in Counter(names).items() if times > 1}
    decisions: dict[int, Decision] = {}
    strangers = []
    for row in rows:
        if names is None or not row.name or row.name in repeated_names:
            position = _position(row, len(dataset), ids)
        elif row.name in by_name:
            position = by_name[row.name]
        else:
            strangers.append(f"line {row.line}: no sample is named {row.name!r}")
            continue
        first = decisions.setdefault(position, row)
        if (first.label, first.decision, first.new_label) != (row.label, row.decision, row.new_label):
            raise ValueError(
                f"Expected all rows of a sample to say the same, got another label or decision for sample {row.sample} "
                f"in line {row.line} than in line {first.line}. Delete the row that is not right."
            )
    _refuse(strangers)
    return decisions


def _check_labels(
    decisions: Mapping[int, Decision], dataset: Any, label_key: int | str | None, classes: Sequence[str]
) -> None:
    """Compare the labels that were decided on with those that the dataset has now."""
    misfits = _other_checksums(decisions, dataset, label_key)
    for position, row in decisions.items():
        decided_label = "" if is_checksum(row.label) else row.label
        if not decided_label and row.decision != "relabel":
            continue
        label = _label(dataset[position], position, label_key)
        words, labels = f"line {row.line}: sample {row.sample} has", np.asarray(label).size
        if decided_label and _differs(label, decided_label, classes):
            misfits.append(f"{words} the label {label_text(label)}, not {decided_label}")
        elif row.new_label is not None and not _is_one_of(row.new_label, labels):
            number = "one class" if labels == 1 else f"{labels} labels"
            misfits.append(f"{words} {number}, and cannot get {row.new_label!r}")
    _refuse(misfits)


def _other_checksums(decisions: Mapping[int, Decision], dataset: Any, label_key: int | str | None) -> list[str]:
    """Return samples with other labels than those that were decided on, of which the file has a checksum."""
    misfits = []
    for position, row in decisions.items():
        if not is_checksum(row.label):
            continue
        checksum = checksum_of(labels_of(dataset[position], label_key))
        if checksum == row.label:
            continue
        if any(checksum_of(labels_of(dataset[position], label_key)) != checksum for _ in range(_READS)):
            warn(
                "Expected a dataset whose samples have the same labels each time, so that they can be compared with "
                f"those that were looked at, got other ones when sample {row.sample} was read again. Without random "
                "changes such as flips, the dataset would be compared. The decisions are applied to the positions."
            )
            return []
        misfits.append(f"line {row.line}: sample {row.sample} has other labels than those that were looked at")
    return misfits


def _label(sample: Any, position: int, label_key: int | str | None) -> Any:
    """Return the label of a sample: a class, a number, or 0 or 1 for each of its labels."""
    try:
        label = sample[label_place(sample, label_key)]
        np.asarray(label).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected sample {position} to be (input, label, ...) or a dict with one of {', '.join(LABEL_KEYS)}, got "
            f"a {type(sample).__name__}. Pass `label=`."
        ) from error
    check_labels(label, position)
    return label


def _is_one_of(new_label: int | str, labels: int) -> bool:
    """Return whether a sample with so many labels, 1 for a class, can get this one."""
    numbers = labels_in(str(new_label)) or []
    return isinstance(new_label, int) if labels == 1 else max(numbers, default=0) < labels


def _differs(label: Any, text: str, classes: Sequence[str]) -> bool:
    """Return whether a file says another label than the dataset; a name that no class has is not compared."""
    is_number = labels_in(text) is not None  # never taken for a name, see :func:`dynalens.auditing.read_answers`
    text = str(classes.index(text)) if text in classes and not is_number else text
    is_same = is_same_label(label_text(label), text)
    if is_same or np.asarray(label).size != 1:
        return not is_same
    try:
        return not math.isclose(float(np.asarray(label).item()), float(text), rel_tol=_ROUNDED)
    except ValueError:
        return False


_ROUNDED = 6e-6  # relative error of a number in the file: 5e-6 by its six digits, 1e-7 by float32
_READS = 8  # times to read a sample whose labels differ: random flips (1/2) show in all but 1 of 256 cases
_LISTED = 20  # lines of an error message; the rest is counted


def _refuse(misfits: Sequence[str]) -> None:
    if not misfits:
        return
    rest = f"\n... and {len(misfits) - _LISTED} more" if len(misfits) > _LISTED else ""
    lines = "\n".join(misfits[:_LISTED])
    raise ValueError(
        f"Expected each row to fit the dataset, got {len(misfits)} that do not. Nothing was applied. Pass the dataset "
        f"that was trained on, before any correction.\n{lines}{rest}"
    )


def _position(row: Decision, length: int, positions: Mapping[str, int] | None) -> int:
    if positions is not None:
        index = positions.get(row.sample, -1)
    else:
        sample = whole(row.sample.strip())
        index = int(sample) if sample.isascii() and sample.isdigit() else -1
    if not 0 <= index < length:
        options = "one of `sample_ids`" if positions is not None else f"in [0, {length})"
        raise ValueError(
            f"Expected `sample_id` to be {options}, got {row.sample!r} in line {row.line}. "
            "Pass the dataset that was trained on."
        )
    return index


def _decision(row: Mapping[str, str], classes: Sequence[str] | None, line: str) -> Decision:
    """Return what a line of the file says."""
    if row["decision"] not in DECISIONS:
        raise ValueError(
            f"Expected `decision` to be one of {', '.join(DECISIONS)}, got {row['decision']!r} in line {line}. "
            "Leave out rows that are not decided."
        )
    decision = Decision(line, row["sample_id"], row.get("name", ""), row.get("label", ""), row["decision"])
    return decision if decision.decision != "relabel" else _with_new_label(decision, row, classes)


def _with_new_label(decision: Decision, row: Mapping[str, str], classes: Sequence[str] | None) -> Decision:
    text, name = row["new_label"], row.get("new_label_name", "")
    text = text if classes is not None and text in classes else whole(text)
    labels = labels_in(text)
    if labels is None and classes is not None and text in classes:
        text, labels = str(classes.index(text)), [classes.index(text)]
    if labels is None or (classes is not None and max(labels, default=0) >= len(classes)):
        options = f"a class in [0, {len(classes)}) or its name" if classes is not None else "the number of a class"
        raise ValueError(
            f"Expected `new_label` to be {options}, got {text!r} in line {decision.line}. Choose a class that exists."
        )
    words = name if classes is None else ", ".join(classes[label] for label in labels) or name
    if name and name not in (words, text):
        raise ValueError(
            f"Expected `new_label_name` of class {text} to be {words!r}, got {name!r} in line {decision.line}. "
            "Pass the dataset whose classes were shown."
        )
    return decision._replace(new_label=labels[0] if text == str(*labels[:1]) else text, new_label_name=name)
