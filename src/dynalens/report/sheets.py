"""Sheets in a record's folder, and the sheet of influences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dynalens.influences import Influence
from dynalens.pictures import (
    Normalisation,
    Relative,
    class_name,
    find_normalisation,
    png_bytes,
    relatives_sheet,
    shown_inputs,
)
from dynalens.record import Record
from dynalens.record.folder import write_sheet
from dynalens.report.items import DatasetPictures

_MOST_TESTS = 12  # rows of a sheet


def influence_sheet(
    influence: Influence,
    dataset: Any,
    inputs: Any,
    *,
    tests: Sequence[int] | None = None,
    n: int = 3,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Return a picture of test samples, each with the training samples that raised and that lowered its loss most.

    Below each training sample stand its id and its label.

    Args:
        influence: The result of :func:`dynalens.influence`.
        dataset: The training set.
        inputs: Shape ``(M, C, *spatial)``: the test samples, as they were given to :func:`dynalens.influence`.
        tests: Numbers of the test samples to show. Default: the first twelve that are predicted wrong. If none is
            predicted wrong, the first twelve.
        n: Number of training samples of each kind.
        class_names: Name of each class. Default: its number.

    Raises:
        ValueError: If there are not M inputs, or the dataset is not that of the influences.

    Example:
        >>> import numpy as np, pandas as pd, torch
        >>> samples = pd.DataFrame({"label": [0, 1]}, index=pd.RangeIndex(2, name="sample_id"))
        >>> influence = Influence(np.array([[0.5, -2.0]]), np.array([0]), np.array([1]), samples)
        >>> data = torch.utils.data.TensorDataset(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
        >>> influence_sheet(influence, data, torch.rand(1, 1, 8, 8)).width
        700
    """
    if len(inputs) != len(influence.labels) or len(dataset) != len(influence.samples):
        raise ValueError(
            f"Expected `inputs` to be {len(influence.labels)} test samples and `dataset` to have "
            f"{len(influence.samples)} training samples, as in the influence, got {len(inputs)} and {len(dataset)}. "
            "Pass the inputs and the dataset with which you called `influence`."
        )
    selection = list((influence.wrong() or range(len(inputs)))[:_MOST_TESTS] if tests is None else tests)
    pictures = DatasetPictures(dataset)
    test_inputs = _shown_inputs(inputs, selection, find_normalisation(dataset))

    def members(rows: Sequence[int]) -> list[Relative]:
        samples = influence.samples.iloc[list(rows)]
        captions = [f"{class_name(int(label), class_names)} #{sample}" for sample, label in samples["label"].items()]
        return [Relative(pictures.image(row), words) for row, words in zip(rows, captions, strict=True)]

    rows = []
    for test, picture in zip(selection, test_inputs, strict=True):
        classes = (influence.labels[test], influence.predicted[test])
        label, predicted = (class_name(int(number), class_names) for number in classes)
        groups = {
            "test sample": [Relative(picture, f"#{test}")],
            "raised its loss": members(influence.rows(test, n, sign=-1)),
            "lowered its loss": members(influence.rows(test, n, sign=1)),
        }
        rows.append((f"{label}, predicted {predicted}", groups))
    return relatives_sheet(rows, "training samples behind a prediction (TracIn)")


def show_in_report(record: Record, name: str, sheet: Image.Image) -> Path:
    """Save a picture in the folder of the record, so that the page of ``dynalens report`` shows it.

    Args:
        record: The result of :func:`~dynalens.load_record`, or ``monitor.record``.
        name: Name of the picture: letters, digits, ``-``, ``_`` and spaces. A picture of the same name is replaced.
        sheet: The picture.

    Returns:
        The file, ``sheets/<name>.png`` in the folder of the record.

    Raises:
        ValueError: If the name has other letters, or the record has no folder.

    Example:
        >>> import numpy as np, tempfile
        >>> from dynalens.record import RecordMeta
        >>> from dynalens import TrainingDynamics
        >>> folder = Path(tempfile.mkdtemp())
        >>> meta, statistics = RecordMeta(num_samples=1, epochs=[0]), TrainingDynamics(1).compute()
        >>> record = Record(statistics=statistics, meta=meta, root_index=np.arange(1), folder=folder)
        >>> show_in_report(record, "influence", Image.new("RGB", (8, 8))).relative_to(folder).as_posix()
        'sheets/influence.png'
    """
    if not name or not all(letter.isalnum() or letter in "-_ " for letter in name):
        raise ValueError(
            f"Expected `name` to be letters, digits, '-', '_' and spaces, got {name!r}. It becomes the name of a file."
        )
    if record.folder is None:
        raise ValueError(
            "Expected a record with a folder, got one without. Load it with `load_record`, or save the picture."
        )
    return write_sheet(record.folder, name, png_bytes(sheet))


def _shown_inputs(inputs: Any, rows: Sequence[int], normalisation: Normalisation | None) -> list[Any]:
    """Return the inputs in the form of sheets; None for inputs that are no images, signals or columns."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 3:
        return [None] * len(rows)
    return list(shown_inputs(inputs[list(rows)], normalisation))
