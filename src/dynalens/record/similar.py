"""What suspects look like, as a run left it in its folder."""

from pathlib import Path

import numpy as np

from dynalens.embeddings import SimilarSamples
from dynalens.record.checks import check_names
from dynalens.record.files import damage_errors, read_arrays
from dynalens.record.folder import SIMILAR
from dynalens.record.meta import RecordMeta

_FIELDS = ("rows", "given", "suggested")


def read_similar(folder: Path | None, meta: RecordMeta) -> SimilarSamples | None:
    """Return the similar samples that a run found; None where there are none, or not as of these epochs.

    Raises:
        ValueError: If the file holds something else.
    """
    file = None if folder is None else folder / SIMILAR
    if file is None or not file.is_file():
        return None
    arrays = read_arrays(file)
    with damage_errors(file):
        check_names(arrays, [*_FIELDS, "epochs"], [*_FIELDS, "epochs"])
        rows, of_label, of_suggestion = (arrays[name] for name in _FIELDS)
        fits = rows.ndim == 1 and of_label.ndim == 2 and of_label.shape == of_suggestion.shape
        fits = fits and len(of_label) == len(rows)
        for name, values in zip(_FIELDS, (rows, of_label, of_suggestion), strict=True):
            is_in_range = values.dtype.kind == "i" and ((values >= -1) & (values < meta.num_samples)).all()
            if not fits or not is_in_range:
                raise ValueError(f"{name} of {values.dtype} and shape {values.shape} for {meta.num_samples} samples")
        if not np.array_equal(arrays["epochs"], meta.epochs):
            return None
        return SimilarSamples(rows, of_label, of_suggestion)
