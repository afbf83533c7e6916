"""Lightning callbacks that show which samples a classifier forgets, where it looks, and which labels are wrong."""

from dynalens.attribution import (
    Explanation,
    explain,
    find_target_layer,
    grad_cam,
    input_x_gradient,
    reduce_channels,
    resize,
    saliency,
)
from dynalens.callbacks import AttributionMonitor, TrainingDynamicsMonitor
from dynalens.capture import CaptureError
from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.faithfulness import (
    CurveSettings,
    area_under_curve,
    average_drop,
    average_increase,
    baseline_images,
    deletion_curve,
    faithfulness_curves,
    infidelity,
    insertion_curve,
    kar_datasets,
    pointing_game,
    random_ranking_control,
    randomisation_check,
    rank_correlation,
    relevance_mass,
    replaced_fractions,
    roar_datasets,
    sensitivity_max,
    symmetric_relevance_gain,
)
from dynalens.identity import SampleIdentityError
from dynalens.observation import undisturbed
from dynalens.records import Record, load_record

__all__ = [
    "AttributionMonitor",
    "CaptureError",
    "CurveSettings",
    "Explanation",
    "Record",
    "SampleIdentityError",
    "SampleStatistics",
    "TrainingDynamics",
    "TrainingDynamicsMonitor",
    "area_under_curve",
    "average_drop",
    "average_increase",
    "baseline_images",
    "deletion_curve",
    "explain",
    "faithfulness_curves",
    "find_target_layer",
    "grad_cam",
    "infidelity",
    "input_x_gradient",
    "insertion_curve",
    "kar_datasets",
    "load_record",
    "pointing_game",
    "random_ranking_control",
    "randomisation_check",
    "rank_correlation",
    "reduce_channels",
    "relevance_mass",
    "replaced_fractions",
    "resize",
    "roar_datasets",
    "saliency",
    "sensitivity_max",
    "symmetric_relevance_gain",
    "undisturbed",
]
