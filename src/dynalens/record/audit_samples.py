"""What was given to the samples of an audit, where the record itself keeps only a part of it, as a run left it."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import numpy as np

from dynalens.auditing import keeps_all_given
from dynalens.dynamics import Array, SampleStatistics
from dynalens.record.checks import check_names
from dynalens.record.files import damage_errors, read_arrays

AUDITED = "audited.npz"
"""Of each sample that an audit drew while training: what was given to it, and its input."""
_GIVEN, _INPUT = "given", "input"
_INPUT_KINDS = {1: "iuf", 2: "f", 3: "u"}
"""Of tokens or numbers, signals and pictures, by their number of axes."""


class AuditedSample(NamedTuple):
    """What a batch held of a sample.

    Attributes:
        labels: Of tokens a class for each ``(T,)``, or 0 or 1 for each label ``(K, T)``; a mask ``(h, w)``, or one for
            each label ``(K, h, w)``; the targets ``(D,)`` of a regression. Negative, or NaN, where the loss ignores it.
        input: Tokens ``(T,)``, numbers ``(F,)``, a picture ``(H, W, 3)``, uint8, or a signal ``(C, L)``; None where
            it was none of these.
    """

    labels: Array
    input: Array | None = None


def audit_command(statistics: SampleStatistics, folder: Path | None) -> str:
    """Return the command that draws an audit of this record, as a shell takes it.

    A run of Lightning has the record in a folder of its own.
    """
    is_answerable = keeps_all_given(statistics) or (folder is not None and (folder / AUDITED).is_file())
    run = "RUN" if folder is None else quote(str(folder.parent if folder.name == "dynalens" else folder))
    return f"dynalens audit {run}" + ("" if is_answerable else " --data MODULE:CALLABLE")


def audited_arrays(samples: Mapping[int, AuditedSample]) -> dict[str, Array]:
    """Return these samples as arrays with the names that they have in the file."""
    arrays: dict[str, Array] = {}
    for row, sample in samples.items():
        arrays[f"{row}_{_GIVEN}"] = sample.labels
        if sample.input is not None:
            arrays[f"{row}_{_INPUT}"] = sample.input
    return arrays


def read_audited(folder: Path | None, num_samples: int) -> dict[int, AuditedSample]:
    """Return what a run kept of the samples of its audit, by their rows; none where it kept none.

    Raises:
        DamagedFileError: If the file holds something else.
    """
    file = None if folder is None else folder / AUDITED
    if file is None or not file.is_file():
        return {}
    arrays = read_arrays(file)
    with damage_errors(file):
        rows = [name.removesuffix(f"_{_GIVEN}") for name in arrays if name.endswith(f"_{_GIVEN}")]
        known_names = [f"{row}_{part}" for row in rows for part in (_GIVEN, _INPUT)]
        check_names(arrays, [], known_names)
        for row in rows:
            if not (row.isdecimal() and int(row) < num_samples):
                raise ValueError(f"{row:.20} instead of a row of {num_samples} samples")
            _check(arrays[f"{row}_{_GIVEN}"], arrays.get(f"{row}_{_INPUT}"))
    return {int(row): AuditedSample(arrays[f"{row}_{_GIVEN}"], arrays.get(f"{row}_{_INPUT}")) for row in rows}


def _check(labels: Array, sample_input: Array | None) -> None:
    if labels.dtype.kind not in "if" or labels.ndim not in (1, 2, 3) or not labels.size:
        raise ValueError(f"labels of {labels.dtype} and shape {labels.shape}")
    if sample_input is None:
        return
    kinds, shape = _INPUT_KINDS.get(sample_input.ndim, ""), sample_input.shape
    picture = sample_input.ndim == 3 and (shape[2] != 3 or sample_input.dtype != np.uint8)
    if sample_input.dtype.kind not in kinds or not sample_input.size or picture:
        raise ValueError(f"an input of {sample_input.dtype} and shape {shape}")
