"""What a record keeps, as it was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynalens.arguments import check_positive
from dynalens.dynamics import checked_tolerance, probability_room


@dataclass(frozen=True)
class RecordSettings:
    """What the record keeps; :class:`dynalens.TrainingDynamicsMonitor` says what each means.

    Raises:
        ValueError: If one of them is out of its range.
    """

    views: int
    history: bool
    mean_probabilities: bool | float
    tolerance: float | Sequence[float] | None
    name_of: Callable[[Any], str] | None
    save_dir: str | Path | None

    def __post_init__(self) -> None:
        """Raise now what would be raised in the first batch."""
        check_positive(views=self.views)
        probability_room(self.mean_probabilities)
        checked_tolerance(self.tolerance)
