"""Samples that are explained in every epoch: collect them, explain them, compare the maps, draw them."""

from dynalens.explanations.comparison import agreement_of_runs
from dynalens.explanations.epoch import EpochExplanations
from dynalens.explanations.files import ExplainedEpoch, load_explanations
from dynalens.explanations.pictures import ExplanationPictures
from dynalens.explanations.run import RunExplanations
from dynalens.explanations.settings import (
    DEFAULT_METHODS,
    DEFAULT_METRICS,
    ExplanationSettings,
    MapSettings,
    SampleSettings,
)
from dynalens.explanations.unlike_inputs import several_inputs_told

__all__ = [
    "DEFAULT_METHODS",
    "DEFAULT_METRICS",
    "EpochExplanations",
    "ExplainedEpoch",
    "ExplanationPictures",
    "ExplanationSettings",
    "MapSettings",
    "RunExplanations",
    "SampleSettings",
    "agreement_of_runs",
    "load_explanations",
    "several_inputs_told",
]
