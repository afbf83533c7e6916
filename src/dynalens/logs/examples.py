"""Training samples that loggers show beside suspects, and as examples of each class."""

from dynalens.dynamics import SampleStatistics
from dynalens.embeddings import SimilarSamples
from dynalens.features import FeatureRows
from dynalens.logs.dynamics_pictures import FOLLOWED
from dynalens.logs.settings import LogSettings
from dynalens.similarity import class_examples, similar_to_suspects

_MOST_CLASSES = 20  # rows of the sheet; as many as suspects in the gallery


def similar_of(
    features: FeatureRows | None, statistics: SampleStatistics, settings: LogSettings
) -> SimilarSamples | None:
    """Return samples that look like the followed suspects; None if not asked for, or if samples have several labels."""
    if not settings.similar or features is None or not features.values.shape[1] or statistics.unit is not None:
        return None
    values = features.values[: len(statistics)]
    return similar_to_suspects(values, statistics, FOLLOWED * settings.top_k, settings.similar)


def class_examples_of(features: FeatureRows, statistics: SampleStatistics, n: int) -> dict[int, dict[str, list[int]]]:
    """Return each class's prototypes, criticisms, easiest and hardest samples.

    None without features or single labels.
    """
    if not features.values.shape[1] or statistics.unit is not None or not (statistics.presentations > 0).any():
        return {}
    return class_examples(features.values[: len(statistics)], statistics, n, max_classes=_MOST_CLASSES)
