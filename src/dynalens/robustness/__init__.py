"""How little it takes to change a prediction: adversarial steps and corruptions of the input."""

from dynalens.robustness.attacks import ATTACKS, SmallestStep, smallest_step
from dynalens.robustness.checks import CHECKS, check_robust_inputs, check_robustness
from dynalens.robustness.corruptions import CORRUPTIONS, corrupted, corrupted_margins

__all__ = [
    "ATTACKS",
    "CHECKS",
    "CORRUPTIONS",
    "SmallestStep",
    "check_robust_inputs",
    "check_robustness",
    "corrupted",
    "corrupted_margins",
    "smallest_step",
]
