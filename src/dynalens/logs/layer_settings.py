"""Which pictures of a layer are shown: settings that refuse combinations without a meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dynalens.arguments import check_choice, check_positive

_MAXIMISE_ARGS = ("variants", "diversity", "diversity_layer", "frequency_penalty", "robust", "seed")


@dataclass(frozen=True)
class LayerSettings:
    """Which pictures of a layer are shown. :class:`dynalens.LayerMonitor` says what each means.

    Raises:
        ValueError: If one of them is out of its range, or nothing is asked for.
    """

    layer: str | None
    channels: Sequence[int]
    weights: bool | str
    feature_maps: int
    top_inputs: int
    maximise: Literal["classes", "channels"] | None
    classes: Sequence[int]
    maximise_steps: int
    maximise_args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check each setting, and that a layer is named if something is asked of one."""
        check_positive(maximise_steps=self.maximise_steps)
        unknown_names = [name for name in self.maximise_args or {} if name not in _MAXIMISE_ARGS]
        if unknown_names:
            raise ValueError(
                f"Expected `maximise_args` to be among {', '.join(_MAXIMISE_ARGS)}, got {', '.join(unknown_names)}. "
                "Pass arguments of `maximise_activation`."
            )
        if self.maximise is not None:
            check_choice("maximise", self.maximise, ("classes", "channels"))
        needs_layer = self.feature_maps or self.top_inputs or self.maximise == "channels"
        if not (needs_layer or self.weights or self.maximise) or min(self.feature_maps, self.top_inputs) < 0:
            raise ValueError(
                "Expected at least one of `weights`, `feature_maps`, `top_inputs` and `maximise`, and no negative "
                f"number, got {self.weights}, {self.feature_maps}, {self.top_inputs} and {self.maximise}. Pass "
                "`weights=True`, for instance."
            )
        if needs_layer and self.layer is None:
            raise ValueError(
                "Expected `layer` to name a layer for `feature_maps`, `top_inputs` and channels to maximise, got None. "
                "Pass its dotted name."
            )


def unit_numbers(argument: str, numbers: Sequence[int] | int) -> Sequence[int]:
    """Return the numbers of channels or classes. One number n stands for the first n.

    Raises:
        ValueError: If there are none, or one is negative.
    """
    units: Sequence[int] = range(numbers) if isinstance(numbers, int) else list(numbers)
    if not units or min(units) < 0:
        raise ValueError(
            f"Expected `{argument}` to be a positive number, or a list of numbers of at least 0, got {numbers}. "
            "Pass for instance [0, 5]."
        )
    return units
