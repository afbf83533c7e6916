"""Inputs of a model as a person knows them: in colours as in the file, in grey, as signals, or as means of channels."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynalens.dynamics import Array

_DEEPEST = 6
_BYTE = 255.0
# Where data sets, data modules and modules keep what they do to an image.
_KEPT_IN = (
    "transform", "transforms", "train_transform", "train_transforms", "val_transform", "val_transforms", "normalize",
    "normalizer", "normalization", "augment", "augmentation", "dataset", "train_dataset", "val_dataset",
)  # fmt: skip


class Normalisation(NamedTuple):
    """The mean that was subtracted from each channel, and the standard deviation that it was then divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_normalisation(*owners: Any) -> Normalisation | None:
    """Return mean and standard deviation of the first ``Normalize`` in the transforms of modules or datasets.

    It is found by its name and its attributes ``mean`` and ``std``, as in torchvision, kornia and albumentations: in
    ``transform`` and similar attributes, in lists of transforms, and below subsets.

    Args:
        owners: Modules, data modules and data sets; None is skipped.

    Example:
        >>> class Normalize:
        ...     mean, std = [0.5], [0.25]
        >>> class Data:
        ...     transform = [str, Normalize()]
        >>> find_normalisation(Data())
        Normalisation(mean=(0.5,), std=(0.25,))
    """
    for owner in owners:
        for candidate in _walk(owner, 0):
            normalisation = _normalisation(candidate)
            if normalisation is not None:
                return normalisation
    return None


def to_rgb(images: Tensor, normalisation: Normalisation | None = None) -> Array:
    """Return images as they are shown.

    With a normalisation, what it did is undone. Without one, values in [0, 1] and in [0, 255] stand for themselves,
    and any other image is stretched from its own smallest to its largest value. Three channels are colours;
    one is grey; of any other number each channel is stretched and their mean is shown in grey.

    Args:
        images: Shape ``(N, C, H, W)``, or ``(N, C, D, H, W)``, of which the middle slice is shown.
        normalisation: Mean and standard deviation, one for all or one for each channel.

    Returns:
        Shape ``(N, H, W, 3)``, uint8.

    Example:
        >>> to_rgb(Tensor([[[[-1.0, 1.0]]]]))[0, 0].tolist()
        [[0, 0, 0], [255, 255, 255]]
        >>> to_rgb(Tensor([[[[-1.0, 1.0]]]]), Normalisation((0.5,), (0.25,)))[0, 0, :, 0].tolist()
        [64, 191]
    """
    x = images.detach().float().cpu()
    x = x[:, :, x.shape[2] // 2] if x.ndim == 5 else x  # N, C and three axes of space
    values = (
        _original_values(x, normalisation)
        if normalisation is not None and x.shape[1] in (1, 3)
        else _in_colour_range(x)
    )
    values = values if values.shape[1] == 3 else values.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    pixels: Array = (_BYTE * values.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def with_channels_first(images: Tensor) -> Tensor:
    """Return images (N, H, W, C) as (N, C, H, W), if C is 1 or 3 and H is not; others as they are.

    Maps beside images were computed from ``(N, C, H, W)``, so sheets of explanations show these as they are.
    """
    return images.movedim(-1, 1) if images.shape[1] not in (1, 3) and images.shape[-1] in (1, 3) else images


def shown_inputs(inputs: Tensor, normalisation: Normalisation | None = None) -> list[Array]:
    """Return each input in the form of sheets.

    This is an image ``(H, W, 3)``, uint8; a signal ``(C, L)``, float32; or the columns ``(F,)`` of a table's row, each
    divided by its largest magnitude among these rows.
    """
    if inputs.ndim == 2:
        columns = inputs.detach().float().cpu().nan_to_num(0, 0, 0)
        return list((columns / columns.abs().amax(dim=0).clamp(min=1e-12)).numpy())
    if inputs.ndim == 3:  # N, C and one axis of time
        return list(inputs.detach().float().cpu().numpy())
    return list(to_rgb(inputs, normalisation))


def _original_values(x: Tensor, normalisation: Normalisation) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation)
    if mean.shape[1] not in (1, x.shape[1]):
        return _in_colour_range(x)  # of other images than these
    return x * std + mean


def _in_colour_range(x: Tensor) -> Tensor:
    finite = x.nan_to_num(0, 0, 0)
    low, high = (float(end) for end in finite.aminmax()) if x.numel() else (0.0, 0.0)
    if x.shape[1] in (1, 3):
        if low >= 0 and high <= 1:
            return finite
        if low >= 0 and high <= _BYTE and bool((finite == finite.round()).all()):
            return finite / _BYTE
        return _unit_range(finite, (1, 2, 3))
    return _unit_range(finite, (2, 3))


def _unit_range(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    low, high = x.amin(dim=dims, keepdim=True), x.amax(dim=dims, keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-12)


def _walk(owner: Any, depth: int) -> Iterator[Any]:
    if owner is None or depth > _DEEPEST or isinstance(owner, str | bytes | Tensor):
        return
    yield owner
    if isinstance(owner, list | tuple | torch.nn.Sequential | torch.nn.ModuleList):
        for part in owner:
            yield from _walk(part, depth + 1)
        return
    for name in _KEPT_IN:
        yield from _walk(getattr(owner, name, None), depth + 1)


def _normalisation(candidate: Any) -> Normalisation | None:
    if "normal" not in type(candidate).__name__.lower():
        return None
    mean, std = (_numbers(getattr(candidate, name, None)) for name in ("mean", "std"))
    return Normalisation(mean, std) if mean and std and len(mean) == len(std) and all(std) else None


def _numbers(values: Any) -> tuple[float, ...]:
    if isinstance(values, Tensor):
        values = values.flatten().tolist()
    if isinstance(values, int | float):
        values = [values]
    if not isinstance(values, Iterable):
        return ()
    numbers = list(values)
    return tuple(float(v) for v in numbers) if all(isinstance(v, int | float) for v in numbers) else ()
