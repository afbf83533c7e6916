"""The callbacks: when something happens, never how."""

from dynalens.callbacks.attribution import AttributionMonitor
from dynalens.callbacks.concepts import ConceptMonitor
from dynalens.callbacks.layers import LayerMonitor
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor

__all__ = ["AttributionMonitor", "ConceptMonitor", "LayerMonitor", "TrainingDynamicsMonitor"]
