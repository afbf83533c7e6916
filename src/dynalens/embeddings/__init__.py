"""Embeddings of an encoder that never saw the labels, and what they say of these.

`embed` runs an encoder over a dataset, `checks` takes embeddings as a user has them, `neighbours` finds the nearest
samples, `probe` is a linear model that judges samples it was not fitted to, and `evidence` puts both together.
"""

from dynalens.embeddings.checks import embedding_rows, read_embeddings
from dynalens.embeddings.embed import embed
from dynalens.embeddings.evidence import EmbeddingEvidence, embedding_evidence
from dynalens.embeddings.neighbours import nearest, usable_rows

__all__ = [
    "EmbeddingEvidence",
    "embed",
    "embedding_evidence",
    "embedding_rows",
    "nearest",
    "read_embeddings",
    "usable_rows",
]
