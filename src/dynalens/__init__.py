"""Lightning callbacks that show which samples a classifier forgets, where it looks, and which labels are wrong."""

from dynalens.attribution import (
    Explanation,
    attention_rollout,
    completeness_gap,
    contrast,
    deconvolution,
    explain,
    find_target_layer,
    grad_cam,
    grad_cam_plus_plus,
    gradient_rollout,
    guided_backprop,
    guided_grad_cam,
    input_x_gradient,
    integrated_gradients,
    interior_gradient,
    layer_cam,
    pixel_relevance,
    rect_grad,
    reduce_channels,
    resize,
    saliency,
    score_cam,
    smooth_grad,
)
from dynalens.callbacks import AttributionMonitor, TrainingDynamicsMonitor
from dynalens.capture import CaptureError
from dynalens.datasets import IndexedDataset
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
    "IndexedDataset",
    "Record",
    "SampleIdentityError",
    "SampleStatistics",
    "TrainingDynamics",
    "TrainingDynamicsMonitor",
    "area_under_curve",
    "attention_rollout",
    "baseline_images",
    "completeness_gap",
    "contrast",
    "deconvolution",
    "deletion_curve",
    "explain",
    "find_target_layer",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_rollout",
    "guided_backprop",
    "guided_grad_cam",
    "input_x_gradient",
    "insertion_curve",
    "integrated_gradients",
    "interior_gradient",
    "layer_cam",
    "load_record",
    "pixel_relevance",
    "rect_grad",
    "reduce_channels",
    "replaced_fractions",
    "resize",
    "saliency",
    "score_cam",
    "smooth_grad",
    "undisturbed",
]
