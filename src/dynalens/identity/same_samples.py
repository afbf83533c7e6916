"""Check that the samples at the record's positions are still those with which it began."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np

from dynalens.identity.dataset_labels import Array
from dynalens.identity.errors import SampleIdentityError

_REMEDY = (
    "Give each subset a callback of its own, or call `reset()` to begin a new record. For one record of all subsets, "
    "return a name (str) with each sample and pass its key as `index=`."
)


class SameSamples:
    """Compares the samples of each fit with those of the record, which knows them by their positions only.

    Within a process, it compares the positions below all subsets. A checkpoint has checksums (CRC-32) of these, and of
    the files' names without their folders, because another machine may have them elsewhere.

    Example:
        >>> samples = SameSamples()
        >>> samples.check(np.array([0, 2]), ["old/a.png", "old/c.png"])
        >>> resumed = SameSamples(samples.state())
        >>> resumed.check(np.array([0, 2]), ["new/a.png", "new/c.png"])
        >>> resumed.state() == samples.state()
        True
    """

    def __init__(self, state: Mapping[str, int | None] | None = None) -> None:
        self._roots: Array | None = None
        self._checksums = state

    def state(self) -> dict[str, int | None] | None:
        """Return the checksums of the samples; None before any were seen."""
        return None if self._checksums is None else dict(self._checksums)

    def check(self, roots: Array, paths: Sequence[str] | None) -> None:
        """Compare the samples of a fit.

        Args:
            roots: Shape ``(N,)``, the position of each sample below all subsets.
            paths: Path of each sample's file; None if the dataset does not show it.

        Raises:
            SampleIdentityError: If they are others than those of the record.
        """
        if self._roots is not None and len(self._roots) == len(roots):
            _check_positions(self._roots, roots)
            return
        checksums = checksums_of(roots, paths)
        earlier_checksums = self._checksums if self._checksums is not None and self._roots is None else {}
        if earlier_checksums.get("positions") not in (None, checksums["positions"]):
            raise SampleIdentityError(
                f"Expected the samples of the record at their positions in the dataset, got {len(roots)} other "
                f"samples, of which the first is sample {roots[0]} of the whole dataset. Resume with the subset of "
                f"the checkpoint. {_REMEDY}"
            )
        if (
            None not in (earlier_checksums.get("files"), checksums["files"])
            and earlier_checksums["files"] != checksums["files"]
        ):
            raise SampleIdentityError(
                f"Expected the files of the record's {len(roots)} samples, got other files or another order, in "
                f"which {(paths or [''])[0]!r} is the first. Resume with the files of the checkpoint. {_REMEDY}"
            )
        self._roots, self._checksums = roots, checksums


def _check_positions(earlier_roots: Array, roots: Array) -> None:
    moved_positions = np.flatnonzero(earlier_roots != roots)
    if len(moved_positions):
        position = moved_positions[0]
        raise SampleIdentityError(
            "Expected the samples of the record at their positions in the dataset, got other samples at "
            f"{len(moved_positions)} of {len(roots)} positions. The first of them is position {position}, where sample "
            f"{roots[position]} of the whole dataset stands instead of sample {earlier_roots[position]}. {_REMEDY}"
        )


def checksums_of(roots: Array, paths: Sequence[str] | None) -> dict[str, int | None]:
    """Return the checksums of samples, as :meth:`SameSamples.check` takes these. Of files that are not known, None."""
    names = None if paths is None else "\0".join(PurePath(path).name for path in paths)
    return {
        "positions": zlib.crc32(np.ascontiguousarray(roots, dtype="<i8").tobytes()),
        "files": None if names is None else zlib.crc32(names.encode(errors="surrogatepass")),
    }
