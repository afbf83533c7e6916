"""Concepts that a layer has: TCAV for sets of examples, network dissection for masks."""

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
