"""Checks of the values that a user's ``index`` takes from the batch, in the first steps."""

from typing import Any

from torch import Tensor

from dynalens.capture import OrderCheck
from dynalens.datasets import IndexedDataset
from dynalens.identity.dataset_labels import given_labels
from dynalens.identity.errors import ENOUGH, SampleIdentityError


class GivenIndex:
    """Tell values of ``index`` that cannot be those of the samples.

    Raises:
        SampleIdentityError: If several parts of the dataset count their samples from 0, and ``index`` takes these
            numbers.
    """

    def __init__(self, dataset: Any, index: Any) -> None:
        self._dataset, self._index = dataset, index
        self._order, self._are_labels, self._num_targets = OrderCheck(), True, 0
        own_indices = [part for part in getattr(dataset, "datasets", ()) if isinstance(part, IndexedDataset)]
        if len(own_indices) > 1 and (index is IndexedDataset.indices or not callable(index)):
            raise SampleIdentityError(
                f"Expected one `IndexedDataset` around all samples, got a {type(dataset).__name__} of "
                f"{len(own_indices)}, each of which counts from 0. Wrap the whole instead, or leave `index=` out."
            )

    def check(self, values: list[Any], targets: Tensor, *, are_positions: bool) -> None:
        """Compare the values with the targets of one of the first steps. Waits for the device.

        Args:
            values: The position or id of the sample of each target.
            targets: Shape ``(M,)``.
            are_positions: Whether they are positions in the dataset.

        Raises:
            SampleIdentityError: If they are no positions in the dataset, if they are the labels, or if the targets are
                the labels that the dataset shows for them, in another order.
        """
        numbers = targets.tolist()
        if are_positions and values:
            self._check_positions(values, numbers)
        self._are_labels &= values == numbers
        self._num_targets += len(values)
        if self._are_labels and self._num_targets >= ENOUGH and len(set(values)) < len(values):
            raise SampleIdentityError(
                f"Expected `index` to give the position or id of each sample, got its label, by {self._index!r}. Pass "
                "the key or the place of the index in the batch. `IndexedDataset` adds one to each sample."
            )

    def _check_positions(self, positions: list[int], targets: list[int]) -> None:
        length = len(self._dataset)
        if not 0 <= min(positions) <= max(positions) < length:
            raise SampleIdentityError(
                f"Expected `index` to give positions in the dataset, from 0 to {length - 1}, got {min(positions)} to "
                f"{max(positions)}. Return strings if they are no positions."
            )
        labels = given_labels(self._dataset)
        if labels is not None and self._order.refutes(labels[positions].tolist(), targets):
            raise SampleIdentityError(
                "Expected `index` to give the position of the sample of each target, got targets that are the labels "
                "of these samples in another order. Let what reorders the batch reorder all of it, the index too."
            )
