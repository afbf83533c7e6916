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
from dynalens.decisions import apply_decisions
from dynalens.dynamics import SampleStatistics, TrainingDynamics
from dynalens.faithfulness import (
    area_under_curve,
    baseline_images,
    deletion_curve,
    insertion_curve,
    replaced_fractions,
)
from dynalens.identity import SampleIdentityError
from dynalens.observation import undisturbed
from dynalens.records import Record, load_record

__all__ = [
    "AttributionMonitor",
    "CaptureError",
    "Explanation",
    "Record",
    "SampleIdentityError",
    "SampleStatistics",
    "TrainingDynamics",
    "TrainingDynamicsMonitor",
    "apply_decisions",
    "area_under_curve",
    "baseline_images",
    "deletion_curve",
    "explain",
    "find_target_layer",
    "grad_cam",
    "input_x_gradient",
    "insertion_curve",
    "load_record",
    "reduce_channels",
    "replaced_fractions",
    "resize",
    "saliency",
    "undisturbed",
]
