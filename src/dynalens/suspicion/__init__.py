"""From the record to suspects: which labels are probably wrong.

`course` divides the history of a run into a few periods, `evidence` is what they say of each sample when they are
weighted, `noise` knows which class is given for which, `rate` how many labels are wrong, `ranking` makes one order and
a probability of it, `scores` are those that others rank by, `neighbours` one of the features, `joint` the order of
a run and of embeddings together, `table` is what a user
sees of one run and `comparison` of several, and `unforgettable` are the samples that training needs least.
"""

from dynalens.suspicion.comparison import compared
from dynalens.suspicion.joint import joined
from dynalens.suspicion.neighbours import neighbour_scores
from dynalens.suspicion.ranking import Assessment, assess
from dynalens.suspicion.rate import NoiseRate
from dynalens.suspicion.table import (
    PRECISION,
    clean_indices,
    epoch_summary,
    flagged,
    overlap,
    samples_table,
    suspects,
    weights,
    worst_samples,
)
from dynalens.suspicion.unforgettable import removable

__all__ = [
    "PRECISION",
    "Assessment",
    "NoiseRate",
    "assess",
    "clean_indices",
    "compared",
    "epoch_summary",
    "flagged",
    "joined",
    "neighbour_scores",
    "overlap",
    "removable",
    "samples_table",
    "suspects",
    "weights",
    "worst_samples",
]
