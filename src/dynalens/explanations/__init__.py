"""Samples that are explained in every epoch: collect them, explain them, compare the maps, draw them."""

from dynalens.explanations.contrasts import suspect_contrasts
from dynalens.explanations.epoch import EpochExplanations
from dynalens.explanations.explainer import EarlierMaps, Explainer
from dynalens.explanations.files import ExplainedEpoch, load_explanations
from dynalens.explanations.pictures import ExplanationPictures
from dynalens.explanations.result import ExplanationResult
from dynalens.explanations.samples import ExplainedSamples, Passed
from dynalens.explanations.schedule import Schedule
from dynalens.explanations.tokens import check_inputs

__all__ = [
    "EarlierMaps",
    "EpochExplanations",
    "ExplainedEpoch",
    "ExplainedSamples",
    "Explainer",
    "ExplanationPictures",
    "ExplanationResult",
    "Passed",
    "Schedule",
    "check_inputs",
    "load_explanations",
    "suspect_contrasts",
]
