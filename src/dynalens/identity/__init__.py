"""Find the rows of the record that belong to the samples of a training step."""

from dynalens.identity.dataset_labels import labels_each
from dynalens.identity.errors import RowCountError, SampleIdentityError
from dynalens.identity.labels import MIXED
from dynalens.identity.sample_ids import SampleIds, indices_in_batch
from dynalens.identity.samples import SampleIdentity
from dynalens.identity.steps import StepRows

__all__ = [
    "MIXED",
    "RowCountError",
    "SampleIdentity",
    "SampleIdentityError",
    "SampleIds",
    "StepRows",
    "indices_in_batch",
    "labels_each",
]
