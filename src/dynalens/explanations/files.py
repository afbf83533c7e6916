"""Write and read the maps that an AttributionMonitor keeps on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.explanations.names import ids_of_arrays
from dynalens.record import damage_errors, read_arrays

_MAPS, _SCALES = ".maps", ".scales"
_FOLDER = "explanations"


@dataclass(frozen=True)
class ExplainedEpoch:
    """The samples that an AttributionMonitor explained in one epoch, with their maps and metrics.

    Attributes:
        epoch: Number of the epoch, from 0.
        ids: Names of the N samples. A training sample has its id. A sample of a validation set that is read in order is
            called "validation <position>", any other sample "image <digest of its contents>".
        labels: Shape ``(N,)``, int64.
        targets: Shape ``(N,)``, int64: the classes that are explained.
        maps: For each method, float32 ``(N, *spatial)``: at the resolution of the layer for class activation maps, else
            one relevance for each pixel, column or token.
        values: For each ``<method>/<metric>``, the metric of each map, float32 ``(N,)``. The method "random" is the
            random ranking.

    Example:
        >>> import numpy as np
        >>> ids, label = ["validation 0"], np.zeros(1, int)
        >>> ExplainedEpoch(3, ids, label, label, {"saliency": np.ones((1, 2, 2))}, {}).maps["saliency"].shape
        (1, 2, 2)
    """

    epoch: int
    ids: list[int | str]
    labels: Array
    targets: Array
    maps: dict[str, Array]
    values: dict[str, Array]


def packed_maps(method: str, maps: Tensor) -> dict[str, Array]:
    """Return maps as they are kept: float16 of each map over its largest magnitude, and that magnitude in float32.

    So small gradients do not become zero. Half a step of float16 is 2^-11 of a value.

    Args:
        method: Name of the method.
        maps: Shape ``(N, *spatial)``.

    Example:
        >>> arrays = packed_maps("saliency", torch.tensor([[[1e-9, -4e-9]]]))
        >>> arrays["saliency.maps"].tolist(), arrays["saliency.scales"].tolist() == [np.float32(4e-9)]
        ([[[0.25, -1.0]]], True)
    """
    maps = maps.detach().float()
    scales = maps.flatten(1).abs().amax(dim=1)
    column = (-1,) + (1,) * (maps.ndim - 1)
    shares = maps / torch.where(scales > 0, scales, 1).view(column)
    return {method + _MAPS: shares.half().cpu().numpy(), method + _SCALES: scales.cpu().numpy()}


def load_explanations(folder: str | Path) -> list[ExplainedEpoch]:
    """Return what an AttributionMonitor kept of the samples that it explained, in the order of the epochs.

    Args:
        folder: The run's folder (``lightning_logs/version_0``), the ``dynalens`` folder in it, or with
            ``AttributionMonitor(name=...)`` the folder of that name below.

    Raises:
        FileNotFoundError: If there are no explanations.
        ValueError: If a file is damaged; the message names it.

    Example:
        >>> import tempfile
        >>> from dynalens.record import epoch_file, write_arrays
        >>> arrays = packed_maps("saliency", torch.tensor([[[0.5, 1.0]]]))
        >>> arrays |= {"ids": np.array([7]), "labels": np.array([2]), "targets": np.array([2])}
        >>> with tempfile.TemporaryDirectory() as run:
        ...     (Path(run) / "explanations").mkdir()
        ...     write_arrays(Path(run) / "explanations" / epoch_file(0), arrays)
        ...     (epoch,) = load_explanations(run)
        >>> epoch.epoch, epoch.ids, epoch.maps["saliency"].tolist()
        (0, [7], [[[0.5, 1.0]]])
    """
    path = _explanations_folder(Path(folder))
    files_by_number = [(file.stem.removeprefix("epoch_"), file) for file in sorted(path.glob("epoch_*.npz"))]
    return [_read_epoch(int(number), file) for number, file in files_by_number if number.isdecimal()]


def _explanations_folder(folder: Path) -> Path:
    for path in (folder / _FOLDER, folder / "dynalens" / _FOLDER):
        if any(path.glob("epoch_*.npz")):
            return path
    nearby = sorted(str(path.parent.parent) for path in folder.glob(f"**/{_FOLDER}/epoch_*.npz"))
    hint = f"Did you mean {', '.join(dict.fromkeys(nearby))}?" if nearby else "AttributionMonitor writes them."
    raise FileNotFoundError(
        f"Expected `folder` to hold explanations/epoch_*.npz or dynalens/explanations, got {folder}. {hint}"
    )


def _read_epoch(epoch: int, file: Path) -> ExplainedEpoch:
    arrays = read_arrays(file)
    with damage_errors(file):
        methods = [name.removesuffix(_MAPS) for name in arrays if name.endswith(_MAPS)]
        maps = {method: _unpacked_maps(arrays[method + _MAPS], arrays[method + _SCALES]) for method in methods}
        values = {
            "/".join(name.removesuffix(".values").rsplit(".", 1)): values
            for name, values in arrays.items()
            if name.endswith(".values") and not name.startswith("suspects_")
        }
        ids = ids_of_arrays(arrays["ids"], int(arrays.get("ids_of", 0)))
        classes = {name: arrays[name] for name in ("labels", "targets")}
        _check(len(ids), classes, maps | values)
        return ExplainedEpoch(epoch, ids, **classes, maps=maps, values=values)


def _check(samples: int, classes: Mapping[str, Array], others: Mapping[str, Array]) -> None:
    """Raise a ValueError unless each array has an entry for each sample, and classes are whole numbers."""
    for name, values in {**classes, **others}.items():
        is_integer = values.ndim == 1 and values.dtype.kind in "iu"
        if values.shape[:1] != (samples,) or (name in classes and not is_integer):
            raise ValueError(f"{name} of {values.dtype} and shape {values.shape} for {samples} samples")


def _unpacked_maps(shares: Array, scales: Array) -> Array:
    return np.asarray(shares.astype(np.float32) * scales.reshape(-1, *[1] * (shares.ndim - 1)))
