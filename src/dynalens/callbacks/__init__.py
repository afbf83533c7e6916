"""The callbacks: they decide when something happens, and other parts decide how."""

from dynalens.callbacks.attribution import AttributionMonitor
from dynalens.callbacks.concepts import ConceptMonitor
from dynalens.callbacks.layers import LayerMonitor
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor

__all__ = ["AttributionMonitor", "ConceptMonitor", "LayerMonitor", "TrainingDynamicsMonitor"]
