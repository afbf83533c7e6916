"""Embeddings of an encoder that never saw the labels, and what they say of these.

`encoding` runs an encoder over a dataset, `storage` keeps the rows, `checks` takes embeddings as a user has them,
`neighbours` finds the nearest samples, `probe` is a linear model that judges samples it was not fitted to, `evidence`
puts both together, and `witness` is what they say. `several_labels` and `numbers` do the same for samples with several
labels and for a regression. `prototypes` finds the samples that stand for a class.
"""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred
from dynalens.embeddings.storage import read_embeddings
from dynalens.embeddings.witness import EmbeddingEvidence, LabelEvidence, SimilarSamples

if TYPE_CHECKING:
    from dynalens.embeddings.checks import embedding_rows
    from dynalens.embeddings.encoding import embed
    from dynalens.embeddings.evidence import embedding_evidence
    from dynalens.embeddings.neighbours import nearest, usable_rows
    from dynalens.embeddings.numbers import number_evidence
    from dynalens.embeddings.prototypes import Representatives, mmd_critic
    from dynalens.embeddings.several_labels import label_evidence
else:
    __getattr__, __dir__ = deferred(
        __name__,
        checks="embedding_rows",
        encoding="embed",
        evidence="embedding_evidence",
        several_labels="label_evidence",
        neighbours="nearest usable_rows",
        numbers="number_evidence",
        prototypes="Representatives mmd_critic",
    )

__all__ = [
    "EmbeddingEvidence",
    "LabelEvidence",
    "Representatives",
    "SimilarSamples",
    "embed",
    "embedding_evidence",
    "embedding_rows",
    "label_evidence",
    "mmd_critic",
    "nearest",
    "number_evidence",
    "read_embeddings",
    "usable_rows",
]
