"""The logits and targets that a training step has really computed with."""

from dynalens.capture.batch import CaptureError, images_and_labels, inputs_to_show
from dynalens.capture.step import Capture, Presentation, StepCapture

__all__ = ["Capture", "CaptureError", "Presentation", "StepCapture", "images_and_labels", "inputs_to_show"]
