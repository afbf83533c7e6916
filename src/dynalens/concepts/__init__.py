"""Whether a layer knows concepts: TCAV for concepts with examples, network dissection for concepts with masks."""

from dynalens.concepts.dissection import DETECTOR, Dissection, check_masks, dissect
from dynalens.concepts.sets import ConceptSet, class_images, concept_images, mask_images
from dynalens.concepts.tcav import tcav

__all__ = [
    "DETECTOR",
    "ConceptSet",
    "Dissection",
    "check_masks",
    "class_images",
    "concept_images",
    "dissect",
    "mask_images",
    "tcav",
]
