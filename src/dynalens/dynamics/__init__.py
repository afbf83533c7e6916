"""The per-sample record of a training run: what is counted and summed, and nothing of loaders or files.

The step writes one small row for each presentation and never waits for the device (`step_rows`); all else happens once,
at the epoch's end, on the CPU: `tracker` checks the rows, `fold` adds them to the record, `statistics` is what is
read from it.
"""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred
from dynalens.dynamics.statistics import HISTORY, Array, EpochRecord, SampleStatistics
from dynalens.dynamics.tolerance import checked_tolerance
from dynalens.dynamics.weighting import epoch_weight

if TYPE_CHECKING:
    from dynalens.dynamics.gradient_noise import GradientNoise
    from dynalens.dynamics.probabilities import probability_room
    from dynalens.dynamics.step_rows import IGNORED, NOT_A_CLASS, ROWS, TARGET, presentation_rows
    from dynalens.dynamics.tracker import VERSION, TrainingDynamics
    from dynalens.dynamics.units import given_units
else:
    __getattr__, __dir__ = deferred(
        __name__,
        gradient_noise="GradientNoise",
        probabilities="probability_room",
        step_rows="IGNORED NOT_A_CLASS ROWS TARGET presentation_rows",
        tracker="VERSION TrainingDynamics",
        units="given_units",
    )

__all__ = [
    "HISTORY",
    "IGNORED",
    "NOT_A_CLASS",
    "ROWS",
    "TARGET",
    "VERSION",
    "Array",
    "EpochRecord",
    "GradientNoise",
    "SampleStatistics",
    "TrainingDynamics",
    "checked_tolerance",
    "epoch_weight",
    "given_units",
    "presentation_rows",
    "probability_room",
]
