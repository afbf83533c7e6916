"""Checks of the images, targets and maps that a metric compares."""

from collections.abc import Iterable

from torch import Tensor


def check_shapes(images: Tensor, targets: Tensor, maps: Tensor) -> None:
    """Raise a ValueError unless there is one target and one map for each image, and maps have the size of images."""
    if images.ndim < 3 or maps.shape != (len(images), *images.shape[2:]) or targets.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` (N, C, *spatial), `targets` (N,) and `maps` (N, *spatial), got "
            f"{tuple(images.shape)}, {tuple(targets.shape)} and {tuple(maps.shape)}. "
            "Bring maps to that form with `reduce_channels` and `resize`."
        )


def check_finite(maps: Tensor) -> None:
    """Raise a ValueError if a map holds NaN or infinity, because it then gives no order of the pixels."""
    if not bool(maps.isfinite().all()):
        raise ValueError(
            "Expected `maps` to be finite, got NaN or infinity. Pixels cannot be ordered by such a map: look for "
            "such numbers in the weights and the images."
        )


def check_scored(probabilities: Iterable[Tensor]) -> None:
    """Raise a ValueError if a model of tokens returns NaN, because it masks out each token that was replaced."""
    if not all(bool(curve_values.isfinite().all()) for curve_values in probabilities):
        raise ValueError(
            "Expected finite probabilities while tokens are replaced, got NaN. Pass a `baseline` token that the model "
            "does not mask out as it does padding, such as the mask token or the token of unknown words."
        )
