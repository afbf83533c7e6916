"""Write suspects for other tools: JSON, Label Studio and FiftyOne."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dynalens.cells import escaped_cells
from dynalens.record import replacement_file

_MODEL = "dynalens"
_UNIT = ("unit", "unit_name", "unit_row", "unit_column", "unit_label")
"""Columns that say which label, token, pixel or number of a sample is suspicious."""


def to_json(table: pd.DataFrame, path: str | Path) -> Path:
    r"""Write a table of suspects as JSON: a list with one object for each sample, in the order of the table.

    Missing values are null.

    Args:
        table: The result of ``suspects()``.
        path: The file to write.

    Returns:
        The file.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "suspects.json")
        >>> table = pd.DataFrame({"label": [3]}, index=pd.Index([7], name="sample_id"))
        >>> to_json(table, file).read_text()
        '[\n {\n  "sample_id": 7,\n  "label": 3\n }\n]\n'
    """
    return _write_json(path, _records(table))


def to_label_studio(
    table: pd.DataFrame,
    path: str | Path,
    *,
    files: Mapping[Any, str] | None = None,
    texts: Mapping[Any, str] | None = None,
) -> Path:
    """Write tasks with predictions for Label Studio, in which the suggested class is preselected.

    If samples have several labels, tokens, pixels or numbers, a task has the columns of the suspicious one, such as
    ``unit``, among its data. FiftyOne has them as attributes.

    Import the file into a project whose labelling configuration has ``<Image name="image" value="$image"/>`` and
    ``<Choices name="choice" toName="image">`` with the classes. With ``texts`` it is ``<Text name="text"
    value="$text"/>`` and ``toName="text"``. For a regression the predicted number is filled in, which needs
    ``<Number name="number" toName="image"/>``.

    Source: the basic JSON format of https://labelstud.io/guide/predictions

    Args:
        table: The result of ``suspects()``.
        path: The file to write.
        files: For the id of each sample, the address or path of its image. Default: the id itself.
        texts: For the id of each sample, its text, if samples are texts or rows of a table. A task whose text is not
            there has the sample's file or id as its text.

    Returns:
        The file.
    """
    kind = "text" if texts else "image"
    contents = {**(files or {}), **(texts or {})}
    tasks = []
    for row in _records(table):
        sample = row["sample_id"]
        data = {kind: str(contents.get(sample, sample)), "sample_id": sample, "given": _given_text(row)}
        data |= {"suspicion": row.get("score"), **_unit(row)}
        prediction: dict[str, Any] = {"model_version": _MODEL, "result": []}
        if row.get("suggested_probability") is not None:
            prediction["score"] = row["suggested_probability"]
        if row.get("suggested") is not None:
            choice = {"choices": [_class_name(row, "suggested")]}
            prediction["result"] = [{"from_name": "choice", "to_name": kind, "type": "choices", "value": choice}]
        elif row.get("prediction") is not None:
            number = {"number": row["prediction"]}
            prediction["result"] = [{"from_name": "number", "to_name": kind, "type": "number", "value": number}]
        tasks.append({"data": data, "predictions": [prediction]})
    return _write_json(path, tasks)


def to_fiftyone(table: pd.DataFrame, path: str | Path, *, files: Mapping[Any, str] | None = None) -> Path:
    """Write labels for FiftyOne: the given label of each sample, with score and suggested class as attributes.

    Load it with ``fo.Dataset.from_dir(dataset_type=fo.types.FiftyOneImageClassificationDataset, data_path=...,
    labels_path=<this file>)``, where ``data_path`` is the folder of the images.

    Args:
        table: The result of ``suspects()``.
        path: The file to write.
        files: For the id of each sample, the path of its image relative to ``data_path``. Default: the id itself.

    Returns:
        The file.

    Raises:
        ValueError: If the table is of a regression, or two files differ only in their ending.
    """
    if "label" not in table:
        raise ValueError(
            "Expected suspects with classes for FiftyOne, got the numbers of a regression. Use `to_json`, or `--json`."
        )
    rows = _records(table)
    names = sorted(
        {_class_name(row, kind) for row in rows for kind in ("label", "suggested") if row.get(kind) is not None}
    )
    labels = {}
    for row in rows:
        key = str((files or {}).get(row["sample_id"], row["sample_id"]))
        key = key.removesuffix(Path(key).suffix)
        if key in labels:
            raise ValueError(
                "Expected the image files of the samples to differ in their names without the ending, because "
                f"FiftyOne tells samples apart by these names, got {key!r} several times. Rename all but one of "
                "these files, or pass `files=` with paths that differ."
            )
        attributes = {
            "sample_id": row["sample_id"],
            "suspicion": row.get("score"),
            "suggested": _class_name(row, "suggested") if row.get("suggested") is not None else None,
            **_unit(row),
        }
        labels[key] = {"label": names.index(_class_name(row, "label")), "attributes": attributes}
    return _write_json(path, {"classes": names, "labels": labels})


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    # Through pandas' own JSON, which knows nullable integers and writes NaN as null.
    text = escaped_cells(table).reset_index().to_json(orient="records", double_precision=15)
    records = json.loads(text)
    assert isinstance(records, list)
    return records


def _unit(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _UNIT if name in row}


def _given_text(row: Mapping[str, Any]) -> Any:
    return row["target"] if "target" in row else _class_name(row, "label")


def _class_name(row: Mapping[str, Any], kind: str) -> str:
    name = row.get(f"{kind}_name")
    return str(row[kind] if name is None else name)


def _write_json(path: str | Path, content: Any) -> Path:
    target = Path(path)
    with replacement_file(target) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # JSON reads it as an escape
    return target
