"""From the record to suspects: which labels are probably wrong.

`score` is the whole order of samples with one class each. It is made of `predictions`, what the record keeps of each
sample, and of `confusions`, which class is given for which, counted in `class_pairs`. `units`, `dense` and `regression`
are the orders of samples with several labels, of tokens and pixels, and of numbers. `run_and_embeddings` is the order
of a run and of embeddings together.

`noise_rate` is how many labels are wrong. It reads `refuted_labels`, which the network rules out, and `disagreement`,
how far the network disagrees with the labels from epoch to epoch. `rate_doubts` are the reasons to doubt the rate.
`history_summary` is what they read of the history of a run.

`table` is what a user sees of one run, and `comparison` of several. `published_scores` are the scores that others rank
by, and `neighbours` compares features. `unforgettable` are the samples that training needs least.
"""

from typing import TYPE_CHECKING

from dynalens.defaults import PRECISION
from dynalens.deferred import deferred
from dynalens.suspicion.comparison import compare_runs
from dynalens.suspicion.dense import has_classes, is_dense, token_of, unit_words
from dynalens.suspicion.labels_and_embeddings import joined_labels, joined_numbers
from dynalens.suspicion.noise_rate import NoiseRate
from dynalens.suspicion.rate_doubts import doubts
from dynalens.suspicion.regression import label_word, target_words, words_of
from dynalens.suspicion.run_and_embeddings import RunLoss, joined
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
    "joined_labels",
    "joined_numbers",
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
