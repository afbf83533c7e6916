"""Which training samples helped or harmed a prediction, by the checkpoints of the run."""

from dynalens.influences.result import Influence
from dynalens.influences.tracin import influence, self_influence

__all__ = ["Influence", "influence", "self_influence"]
