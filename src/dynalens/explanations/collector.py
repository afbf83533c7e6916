"""Copy some training samples from the batches as they pass, so that no dataset is indexed and no loader opened."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.capture import name_no_classes
from dynalens.dynamics import IGNORED


class SampleCollector:
    """Keeps the images and labels of some samples from the first batches that have them.

    The host never waits for the device while batches pass. Images of another size than the first ones are left out.
    Shorter sequences are padded if the padding token is known.

    Args:
        sample_ids: Ids of the samples, in the order in which they are returned.

    Attributes:
        has_begun: Whether a batch has been offered.
    """

    def __init__(self, sample_ids: Sequence[int | str]) -> None:
        self.wanted_ids = list(dict.fromkeys(sample_ids))
        self._samples: dict[int | str, tuple[Tensor, Tensor]] = {}
        self._slots: tuple[Tensor, Tensor, Tensor] | None = None
        self.has_begun = False

    @property
    def complete(self) -> bool:
        """Whether all samples have been copied, as far as the host knows."""
        return len(self._samples) == len(self.wanted_ids)

    def offer(self, ids: Sequence[int | str] | Tensor, images: Tensor, labels: Tensor) -> None:
        """Copy the samples of a batch that are wanted and not copied yet."""
        self.has_begun = True
        if isinstance(ids, Tensor):
            if ids.device.type != "cpu":
                self._offer_tensor(ids, images, labels)
                return
            ids = ids.tolist()
        new_ids = set(self.wanted_ids) - set(self._samples)
        if not new_ids.isdisjoint(ids):
            for row, sample in enumerate(ids):
                if sample in new_ids:
                    # Cloned: the step may work in place.
                    self._samples.setdefault(sample, (images[row].detach().clone(), labels[row].detach().clone()))

    def result(
        self, first_position: int | None = None, padding: int | None = None
    ) -> tuple[list[int | str], Tensor, Tensor] | None:
        """Return ids, images and labels of the samples that have passed, or None. May wait for the device.

        Args:
            first_position: Return only samples among so many of those that were asked for first.
            padding: Token that pads sequences; None if it is not known.
        """
        if self._slots is not None:
            is_filled, images, labels = self._slots
            rows = is_filled[:first_position].nonzero().squeeze(1)
            ids = [self.wanted_ids[row] for row in rows.tolist()]
            return (ids, images[rows], labels[rows]) if ids else None
        samples = [(i, *self._samples[i]) for i in self.wanted_ids[:first_position] if i in self._samples]
        samples = samples if padding is None else _filled_up(samples, padding)
        alike = [sample for sample in samples if sample[1].shape == samples[0][1].shape]
        if not alike:
            return None
        images, labels = torch.stack([x for _, x, _ in alike]), torch.stack([y for _, _, y in alike])
        return [i for i, _, _ in alike], images, labels

    def _offer_tensor(self, ids: Tensor, images: Tensor, labels: Tensor) -> None:
        if self._slots is None:
            n, device = len(self.wanted_ids), images.device
            self._slots = (
                torch.zeros(n, dtype=torch.bool, device=device),
                images.new_zeros((n, *images.shape[1:])),
                labels.new_zeros((n, *labels.shape[1:])),
            )
        is_filled, kept_images, kept_labels = self._slots
        if kept_images.shape[1:] != images.shape[1:]:
            return
        ids = ids.to(images.device, non_blocking=True)
        wanted_ids = torch.tensor(self.wanted_ids).to(images.device, non_blocking=True)
        match = wanted_ids.unsqueeze(1) == ids
        row, is_new = match.int().argmax(dim=1), match.any(dim=1) & ~is_filled
        column = (-1,) + (1,) * (images.ndim - 1)
        self._slots = (
            is_filled | is_new,
            torch.where(is_new.view(column), images.detach()[row], kept_images),
            torch.where(is_new.view(-1, *[1] * (labels.ndim - 1)), labels[row], kept_labels),
        )


def _filled_up(
    samples: Sequence[tuple[int | str, Tensor, Tensor]], padding: int
) -> list[tuple[int | str, Tensor, Tensor]]:
    """Return the samples with all sequences padded to the longest. Labels of added tokens do not count."""
    longest = max((tokens.shape[-1] for _, tokens, _ in samples), default=0)
    result = []
    for sample, tokens, labels in samples:
        padding_sizes = (0, longest - len(tokens))
        labels = F.pad(labels, padding_sizes, value=IGNORED) if labels.shape[-1:] == tokens.shape else labels
        result.append((sample, F.pad(tokens, padding_sizes, value=padding), labels))
    return result


def _is_id(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Integral) and int(part) >= 0)


def given_samples(
    samples: tuple[Tensor, Tensor] | Sequence[int] | Sequence[str] | None,
) -> tuple[tuple[Tensor, Tensor] | None, SampleCollector | None]:
    """Return the images and labels that a user passed, or a collector for the ids that a user passed.

    Raises:
        ValueError: If they are neither.
    """
    if samples is None:
        return None, None
    plain = getattr(samples, "tolist", None)  # arrays and the index of a table of suspects have it
    samples = samples if plain is None else plain()
    tensors = [part for part in samples if isinstance(part, Tensor)]
    ids = [part if isinstance(part, str) else int(part) for part in samples if _is_id(part)]
    if len(samples) == len(tensors) == 2 and len(tensors[0]) == len(tensors[1]) > 0:
        if name_no_classes(tensors[1]):
            raise ValueError(
                f"Expected `samples` to be images with a class each, got labels of shape {tuple(tensors[1].shape)} "
                "that name no classes, as a regression has them. Pass the classes to explain, and as `forward=` a "
                "callable(pl_module, images) that returns their logits."
            )
        return (tensors[0], tensors[1]), None
    if not samples or len(ids) < len(samples):
        raise ValueError(
            "Expected `samples` to be images (N, C, H, W) with a label each, or ids of training samples, got "
            f"{len(tensors)} tensors and {len(samples) - len(tensors)} other entries. Ids are positions in the "
            "training set, or what `index` calls them."
        )
    return None, SampleCollector(ids)
