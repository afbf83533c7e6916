"""The training samples whose influence is computed: their batches, and a table of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from dynalens.embeddings.encoding import encoder_inputs
from dynalens.keys import LABEL_KEYS
from dynalens.observation import seeded
from dynalens.record import KeepsRecord, Record

Split = Callable[[Any], tuple[Any, Tensor]]
"""(batch) -> inputs and labels."""


def sample_loader(dataset: Any, split: Split | None, *, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """Return a loader of (inputs, labels) in the order of the dataset. Default split: :func:`inputs_and_labels`."""
    collate = _Collate(split or inputs_and_labels)
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)


@dataclass(frozen=True)
class _Collate:
    """Returns inputs and labels of a batch. As an object, unlike a closure, it can be sent to the loader's workers."""

    split: Split

    def __call__(self, items: list[Any]) -> tuple[Any, Tensor]:
        inputs, labels = self.split(default_collate(items))
        return inputs, torch.as_tensor(labels)


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a batch: the first two of a tuple, or the values at the usual keys of a dict.

    Raises:
        ValueError: If the batch has no labels.

    Example:
        >>> inputs_and_labels([1.5, 0]), inputs_and_labels({"image": 1.5, "label": 0})
        ((1.5, 0), (1.5, 0))
    """
    labels = [batch[key] for key in LABEL_KEYS if key in batch] if isinstance(batch, Mapping) else list(batch)[1:2]
    if not labels:
        raise ValueError(
            "Expected batches with inputs and labels, got one without labels. Pass `inputs=` with a callable(batch) "
            "that returns both."
        )
    return encoder_inputs(batch), labels[0]


def sample_table(record: Record | KeepsRecord | None, loader: DataLoader[Any]) -> pd.DataFrame:
    """Return a table with the label of each training sample, and with columns of the record if there is one.

    Raises:
        ValueError: If the samples are not those of the record.
    """
    with seeded():
        labels = torch.cat([y for _, y in loader]).numpy()
    table = pd.DataFrame({"label": list(labels)}, index=pd.RangeIndex(len(labels), name="sample_id"))
    if record is None:
        return table
    record_table = (record if isinstance(record, Record) else record.record).table()
    has_same_length = len(record_table) == len(table)
    is_recorded = record_table["label"].notna().to_numpy() if has_same_length else np.zeros(0, bool)
    if not has_same_length or (labels[is_recorded] != record_table["label"].to_numpy()[is_recorded]).any():
        raise ValueError(
            f"Expected `dataset` to be the one of the record, with its {len(record_table)} labels in their order, got "
            f"{len(table)} samples{' with other labels' if has_same_length else ''}. Pass the dataset of the training "
            "loader. If the record knows samples by ids of your own, their order is not that of the dataset: pass "
            "`record=None`, and the table shows positions in the dataset."
        )
    return record_table[["label", "suggested", "wrong_probability"]]
