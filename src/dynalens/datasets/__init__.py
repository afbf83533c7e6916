"""Datasets that wrap a dataset, and what datasets and their samples say of labels and names."""

from dynalens.datasets.labels import check_labels, label_place, label_text, targets_with, with_label
from dynalens.datasets.names import (
    class_names,
    feature_names,
    hugging_face_label,
    network_class_names,
    root_indices,
    sample_names,
)
from dynalens.datasets.wrappers import (
    IndexedDataset,
    RelabelledDataset,
    check_positions,
    has_positions,
    position_of,
    samples_at,
)

__all__ = [
    "IndexedDataset",
    "RelabelledDataset",
    "check_labels",
    "check_positions",
    "class_names",
    "feature_names",
    "has_positions",
    "hugging_face_label",
    "label_place",
    "label_text",
    "network_class_names",
    "position_of",
    "root_indices",
    "sample_names",
    "samples_at",
    "targets_with",
    "with_label",
]
