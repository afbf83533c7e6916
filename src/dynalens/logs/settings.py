"""Settings of what loggers show of the training dynamics."""

from dataclasses import dataclass
from typing import Literal

from dynalens.arguments import check_overhead, check_positive, check_x_axis
from dynalens.logs.dynamics_pictures import FOLLOWED
from dynalens.pictures import Decode


@dataclass(frozen=True)
class LogSettings:
    """What loggers show of the record; :class:`dynalens.TrainingDynamicsMonitor` says what each setting means.

    Raises:
        ValueError: If one of them is out of its range, or the projector has nothing to show.
    """

    features: str | None
    projector_every_n_epochs: int | None
    top_k: int
    similar: int
    prototypes: int
    audit: int | None
    log_every_n_epochs: int
    max_overhead: float | None
    x_axis: Literal["step", "epoch"]
    decode: Decode | None = None

    def __post_init__(self) -> None:
        """Check each setting, and that there are features if the projector is asked for."""
        check_positive(top_k=self.top_k, log_every_n_epochs=self.log_every_n_epochs)
        check_positive(projector_every_n_epochs=self.projector_every_n_epochs)
        check_x_axis(self.x_axis)
        check_overhead(self.max_overhead)
        if self.projector_every_n_epochs is not None and self.features is None:
            raise ValueError(
                "Expected `features` to name a layer if `projector_every_n_epochs` is set, got None. Pass the "
                "dotted name of the layer before the last linear one."
            )
        for name, number in (("similar", self.similar), ("prototypes", self.prototypes)):
            if number < 0 or (number and self.features is None):
                raise ValueError(
                    f"Expected `{name}` to be 0, or a positive number together with `features`, got {number} and "
                    f"features={self.features!r}. Pass `features=` with the dotted name of the layer before the "
                    "last linear one."
                )
        is_integer = isinstance(self.audit, int) and not isinstance(self.audit, bool)
        if self.audit is not None and (not is_integer or self.audit < 1):
            raise ValueError(
                f"Expected `audit` to be None or a whole number of at least 1, got {self.audit!r}. "
                "Pass for instance 100."
            )

    def logged(self, epoch: int) -> bool:
        """Return whether this epoch is logged."""
        return epoch % self.log_every_n_epochs == 0

    def followed_suspects(self, epoch: int) -> int:
        """Return how many of the worst samples the gallery of this epoch may show; 0 if it is not drawn."""
        return FOLLOWED * self.top_k if self.logged(epoch) else 0
