"""The inputs with the largest activations of a channel."""

from collections.abc import Sequence

import torch
from torch import Tensor


class TopInputs:
    """Stores for some channels the k inputs with the largest activation. The host never waits for the device.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4, who show
    the nine strongest inputs of a validation set. https://arxiv.org/abs/1311.2901

    Args:
        channels: Numbers of the C channels.
        k: Number of inputs of each channel.

    Example:
        >>> top = TopInputs([1], k=2)
        >>> images = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
        >>> top.offer(images, torch.tensor([[0.0, 5.0], [0.0, 9.0], [0.0, 7.0]]))
        >>> top.activations.tolist(), top.images.flatten().tolist()
        ([[9.0, 7.0]], [2.0, 3.0])
    """

    def __init__(self, channels: Sequence[int], k: int) -> None:
        self.channels, self._k = list(channels), k
        self._best: tuple[Tensor, Tensor] | None = None

    @property
    def activations(self) -> Tensor:
        """The activations, shape ``(C, k)``, the largest first; -inf where fewer than k inputs were offered."""
        assert self._best is not None
        return self._best[0]

    @property
    def images(self) -> Tensor:
        """The inputs, shape ``(C, k, channels, H, W)``, or ``(C, k, channels, L)`` for signals."""
        assert self._best is not None
        return self._best[1]

    def offer(self, small: Tensor, activations: Tensor) -> None:
        """Store the inputs of a batch that have larger activations than those that are stored.

        Args:
            small: Small copies of the inputs, shape ``(N, channels, *spatial)``. A batch of another size than the first
                one is left out.
            activations: Shape ``(N, F)``. NaN counts as -inf.
        """
        if self._best is None:
            no_activation = activations.new_full((len(self.channels), self._k), -torch.inf)
            self._best = no_activation, small.new_zeros(*no_activation.shape, *small.shape[1:])
        activations_so_far, pictures = self._best
        if pictures.shape[2:] != small.shape[1:]:
            return
        # Each channel is selected alone, because a list of indices from the host would wait for the device.
        strength = torch.stack([activations.detach()[:, channel] for channel in self.channels])
        all_activations = torch.cat([activations_so_far, strength.nan_to_num(nan=-torch.inf)], dim=1)
        strongest, place = all_activations.topk(self._k, dim=1)
        column = (-1, self._k, *[1] * (small.ndim - 1))
        earlier_places = place.clamp(max=self._k - 1).view(column).expand(-1, -1, *small.shape[1:])
        new_pictures = small[(place - self._k).clamp(min=0)]
        pictures = torch.where((place < self._k).view(column), pictures.gather(1, earlier_places), new_pictures)
        self._best = strongest, pictures
