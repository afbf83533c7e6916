"""Find the logits and targets that a training step computed its loss with."""

from dynalens.capture.advice import ANOTHER_NETWORK, REMEDY
from dynalens.capture.batch import CaptureError, images_and_labels, inputs_to_show
from dynalens.capture.capture_argument import Capture
from dynalens.capture.entries import batch_copy
from dynalens.capture.graph import share_values
from dynalens.capture.labels import class_labels, first_labels, have_several, name_no_classes
from dynalens.capture.layout import BatchLayout, BatchObserver
from dynalens.capture.network import Network
from dynalens.capture.pair_check import ClaimedPairs
from dynalens.capture.parameters import all_weights
from dynalens.capture.presentation import Presentation
from dynalens.capture.row_order import CHANCE_OF_ANY_COLUMN, ENOUGH_FOR_ORDER, OrderCheck, SameNumbers, is_reordered
from dynalens.capture.sequences import MASK, padding_of
from dynalens.capture.step import StepCapture
from dynalens.capture.views import View

__all__ = [
    "ANOTHER_NETWORK",
    "CHANCE_OF_ANY_COLUMN",
    "ENOUGH_FOR_ORDER",
    "MASK",
    "REMEDY",
    "BatchLayout",
    "BatchObserver",
    "Capture",
    "CaptureError",
    "ClaimedPairs",
    "Network",
    "OrderCheck",
    "Presentation",
    "SameNumbers",
    "StepCapture",
    "View",
    "all_weights",
    "batch_copy",
    "class_labels",
    "first_labels",
    "have_several",
    "images_and_labels",
    "inputs_to_show",
    "is_reordered",
    "name_no_classes",
    "padding_of",
    "share_values",
]
