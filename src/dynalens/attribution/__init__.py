"""Where a model looks: maps of relevance.

``gradients``, ``cam``, ``gradient_free_cam``, ``backpropagation`` and ``rollout`` hold the methods. ``passes`` and
``score`` compute the scores and gradients that the methods need, and ``layers`` finds the target layer. ``captum``,
``zennit`` and ``lxt`` adapt methods of other libraries. ``explanation`` runs several methods at once.
"""

from dynalens.attribution.backpropagation import deconvolution, guided_backprop, guided_grad_cam, rect_grad
from dynalens.attribution.cam import grad_cam, grad_cam_plus_plus, layer_cam
from dynalens.attribution.contrast import check_contrast, contrast
from dynalens.attribution.explanation import Explanation, explain, find_forward
from dynalens.attribution.gradient_free_cam import ablation_cam, score_cam
from dynalens.attribution.gradients import (
    completeness_gap,
    input_x_gradient,
    integrated_gradients,
    interior_gradient,
    saliency,
    smooth_grad,
)
from dynalens.attribution.layers import find_embedding, find_target_layer
from dynalens.attribution.maps import pixel_relevance, reduce_channels, resize, token_relevance
from dynalens.attribution.methods import (
    BUILT_IN,
    TOKEN_METHODS,
    Method,
    MethodArgs,
    blind_to_tokens,
    check_methods,
    resolved_methods,
)
from dynalens.attribution.rollout import attention_rollout, gradient_rollout, transition_attention

__all__ = [
    "BUILT_IN",
    "TOKEN_METHODS",
    "Explanation",
    "Method",
    "MethodArgs",
    "ablation_cam",
    "attention_rollout",
    "blind_to_tokens",
    "check_contrast",
    "check_methods",
    "completeness_gap",
    "contrast",
    "deconvolution",
    "explain",
    "find_embedding",
    "find_forward",
    "find_target_layer",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_rollout",
    "guided_backprop",
    "guided_grad_cam",
    "input_x_gradient",
    "integrated_gradients",
    "interior_gradient",
    "layer_cam",
    "pixel_relevance",
    "rect_grad",
    "reduce_channels",
    "resize",
    "resolved_methods",
    "saliency",
    "score_cam",
    "smooth_grad",
    "token_relevance",
    "transition_attention",
]
