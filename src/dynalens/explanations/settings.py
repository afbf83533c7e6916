"""Settings of explanations, which refuse combinations that have no meaning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from dynalens.arguments import check_choice, check_positive
from dynalens.attribution import Method, check_contrast, check_methods
from dynalens.explanations.collector import given_samples
from dynalens.explanations.regions import Where
from dynalens.explanations.tokens import check_inputs
from dynalens.faithfulness import METRICS_OF_REGIONS, CurveSettings, check_metrics
from dynalens.robustness import check_robust_inputs, check_robustness

DEFAULT_METHODS = ("saliency", "grad_cam")
DEFAULT_METRICS = ("deletion", "insertion", "symmetric_relevance_gain", "attribution_drift")


@dataclass(frozen=True)
class MapSettings:
    """Which maps and metrics to compute; :class:`dynalens.AttributionMonitor` says what each setting means.

    Raises:
        ValueError: If one of them is out of its range.
    """

    methods: tuple[Method, ...]
    method_args: dict[str, dict[str, Any]] | None
    metrics: tuple[str, ...]
    baseline: int | str | Callable[[Tensor], Tensor]
    steps: int | Literal["auto"]
    patch_size: int
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    seed: int
    forward: Callable[[Any, Tensor], Tensor] | None
    target_layer: str | None
    contrast: str | None
    robustness: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the settings. Those of curves are checked when curves are made."""
        check_methods(self.methods, self.method_args)
        if self.contrast is not None:
            check_contrast(self.contrast)
        check_metrics(self.metrics)
        check_robustness(self.robustness)
        self.curves("float32")

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of methods and metrics that nobody asked for: where they are not defined, nothing is said."""
        methods = tuple(name for name in DEFAULT_METHODS if name not in (self.method_args or {}))
        methods = methods if self.methods == DEFAULT_METHODS else ()
        return methods + (DEFAULT_METRICS if self.metrics == DEFAULT_METRICS else ())

    def curves(self, trainers_precision: str) -> CurveSettings:
        """Return the settings of curves, in a Trainer with this precision."""
        precision = trainers_precision if self.precision == "auto" else self.precision
        return CurveSettings(self.baseline, self.steps, self.patch_size, self.seed, precision)

    def check_inputs(self, inputs: Tensor, *, strict: bool = True) -> None:
        """Raise a ValueError for inputs for which these maps, metrics and checks are not defined.

        Args:
            inputs: Of the samples.
            strict: Whether all maps and metrics that are asked for must be defined. If not, one of the maps must be.
        """
        check_robust_inputs(inputs, self.robustness)
        check_inputs(inputs, self.methods, self.metrics, self.baseline, strict=strict, optional=self.optional)


@dataclass(frozen=True)
class SampleSettings:
    """Which samples to explain; :class:`dynalens.AttributionMonitor` says what each setting means.

    Raises:
        ValueError: If one of them is out of its range.
    """

    num_samples: int
    samples: tuple[Tensor, Tensor] | Sequence[int] | Sequence[str] | None
    suspects: int
    target: Literal["label", "prediction"]
    inputs: str | tuple[str, str] | Callable[[Any], tuple[Tensor, Tensor]]
    decode: Callable[[int], str] | None
    masks: Where = None

    def __post_init__(self) -> None:
        """Check numbers and words. ``samples`` is checked where it is read."""
        check_positive(num_samples=self.num_samples)
        if self.suspects < 0:
            raise ValueError(f"Expected `suspects` to be at least 0, got {self.suspects}. Pass 0 for none.")
        check_choice("target", self.target, ("label", "prediction"))


@dataclass(frozen=True)
class ExplanationSettings:
    """All settings of a run's explanations.

    Attributes:
        maps: Which maps and metrics to compute.
        choice: Which samples to explain.
        strict: Whether a method or metric that fails raises. If not, it is left out, with a warning.
    """

    maps: MapSettings
    choice: SampleSettings
    strict: bool

    def __post_init__(self) -> None:
        """Check that metrics that need masks have some, masks come with samples, and given samples can be explained."""
        local = [name for name in self.maps.metrics if name in METRICS_OF_REGIONS]
        masks, samples = self.choice.masks, self.choice.samples
        if local and masks is None:
            raise ValueError(
                f"Expected `masks` for the metrics {', '.join(local)}, got none. Pass the key of masks (N, H, W) or "
                "boxes (N, 4) in the batch, or a callable(batch) that returns them."
            )
        if isinstance(masks, Tensor) and not (isinstance(samples, tuple) and isinstance(samples[0], Tensor)):
            raise ValueError(
                "Expected `masks` to say where they stand in a batch, got a tensor without `samples=(images, labels)`. "
                "Pass a key, a position, or a callable(batch) -> masks."
            )
        own_samples = given_samples(samples)[0]
        if own_samples is not None:
            self.maps.check_inputs(own_samples[0])
        if masks is not None and not isinstance(masks, Tensor) and own_samples is not None:
            raise ValueError(
                f"Expected `masks` of the given `samples` as a tensor (N, H, W), got {masks!r}. `samples` come "
                "without a batch that could hold their masks."
            )
