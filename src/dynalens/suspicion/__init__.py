"""From the record to suspects: which labels are probably wrong.

`score` is the whole order on one page, of `predictions`, what the record keeps of each sample, and `confusions`,
which class is given for which. `noise_rate` is how many labels are wrong, from these and from `refuted_labels`, those
that the network rules out; `doubts` says what speaks against it, from `course`, how it moves from epoch to epoch.
`votes` counts in the history which class was predicted instead of the label. `scores` are those that others rank by,
`neighbours` compares features, `joint` is the order of a run and of embeddings together. `table` is what a user sees
of one run and `comparison` of several. `unforgettable` are the samples that training needs least.
"""

from typing import TYPE_CHECKING

from dynalens.defaults import PRECISION
from dynalens.deferred import deferred
from dynalens.suspicion.comparison import compare_runs
from dynalens.suspicion.dense import has_classes, is_dense, token_of, unit_words
from dynalens.suspicion.doubts import doubts
from dynalens.suspicion.joint import RunLoss, joined
from dynalens.suspicion.noise_rate import NoiseRate
from dynalens.suspicion.score import Assessment, assess, streaming_score
from dynalens.suspicion.table import (
    clean_indices,
    epoch_summary,
    flagged,
    overlap,
    samples_table,
    suspects,
    weights,
    worst_samples,
    wrong_probabilities,
)
from dynalens.suspicion.targets import label_word, target_words, words_of
from dynalens.suspicion.unforgettable import removable
from dynalens.suspicion.units import corrections, named_targets

if TYPE_CHECKING:
    from dynalens.suspicion.neighbours import neighbour_scores
else:
    __getattr__, __dir__ = deferred(__name__, neighbours="neighbour_scores")

__all__ = [
    "PRECISION",
    "Assessment",
    "NoiseRate",
    "RunLoss",
    "assess",
    "clean_indices",
    "compare_runs",
    "corrections",
    "doubts",
    "epoch_summary",
    "flagged",
    "has_classes",
    "is_dense",
    "joined",
    "label_word",
    "named_targets",
    "neighbour_scores",
    "overlap",
    "removable",
    "samples_table",
    "streaming_score",
    "suspects",
    "target_words",
    "token_of",
    "unit_words",
    "weights",
    "words_of",
    "worst_samples",
    "wrong_probabilities",
]
