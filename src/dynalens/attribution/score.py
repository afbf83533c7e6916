"""The score of a class as a function of points, and its gradients there.

A *point* is where the score is evaluated: an image, or what a layer computes of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.passes import (
    FEW,
    Forward,
    check_images,
    check_targets,
    connected_logits,
    gradients,
    model_input,
    pass_size,
    scores_of,
)
from dynalens.observation import captured_output, forward_of, module_named, replaced_output, undisturbed

_MOST_POINTS = 32  # largest number of points in one pass
# Bytes of the activations of one pass. On a CPU, two images of 224 x 224 in a ResNet-18 need as much; passes of one
# image would take a third longer.
_ACTIVATION_BYTES = {"cpu": 44 * 2**20}
_ACTIVATION_BYTES_ACCELERATOR = 2**30


@dataclass(frozen=True)
class Score:
    """The score of each of N samples as a function of points.

    Attributes:
        run: Callable that returns the logits of inputs.
        inputs: Inputs of the model, shape ``(N, ...)``.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        points: The points of the samples themselves: the inputs, or the output of ``layer`` for them. Shape
            ``(N, ...)``, floating.
        layer: The layer whose output the points are, or None if the points are inputs.
        chunk_size: Number of points in one pass, or None.
    """

    run: Forward
    inputs: Tensor
    targets: Tensor
    points: Tensor
    layer: nn.Module | None
    chunk_size: int | None

    def scores_at(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return the scores (P,) at points (P, ...), where point p belongs to sample ``rows[p]``."""
        targets = self.targets[rows]
        if self.layer is None:
            return scores_of(connected_logits(self.run, points, targets).float(), targets)
        with replaced_output(self.layer, points):
            return scores_of(connected_logits(lambda _: self.run(self.inputs[rows]), points, targets).float(), targets)

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return the gradients of :meth:`scores_at` with respect to the points: shape ``(P, ...)``, float32."""
        leaf = points.detach().clone().requires_grad_()
        return gradients(self.scores_at(leaf, rows), {"images" if self.layer is None else "the layer": leaf})[0].float()

    def values(self, points: Tensor) -> Tensor:
        """Return the scores (N,) at one point for each sample, without gradients."""
        with torch.no_grad():
            return torch.cat([self.scores_at(points[rows], rows) for rows in self._passes(points)])

    def gradients(self, points: Tensor) -> Tensor:
        """Return the gradients (N, ...) at one point for each sample."""
        return torch.cat([self.gradient(points[rows], rows) for rows in self._passes(points)])

    def mean_gradient(self, number: int, place: Callable[[int, Tensor], Tensor], weights: Tensor) -> Tensor:
        """Return the weighted sum of the gradients at several points of each sample: sum_k w_k g_k.

        Args:
            number: Number of points of each sample.
            place: Callable(k, rows) that returns the k-th points of the samples ``rows``. For the same rows, it is
                called with k = 0, 1, ... in this order.
            weights: The w_k, shape ``(number,)``.

        Returns:
            Shape of ``points``, float32.
        """
        size = self.chunk_size or self._memory_safe(number * len(self.points))
        total = torch.zeros_like(self.points, dtype=torch.float32)
        for rows in torch.split(torch.arange(len(self.points), device=self.points.device), size):
            for ks in torch.split(torch.arange(number), max(size // max(len(rows), 1), 1)):
                # `cat` keeps the memory layout of images, `stack` would not.
                points = torch.cat([place(int(k), rows) for k in ks])
                gradient = self.gradient(points, rows.repeat(len(ks)))
                parts = gradient.view(len(ks), len(rows), *gradient.shape[1:])
                for weight, part in zip(weights[ks].tolist(), parts, strict=True):
                    total[rows] += weight * part
        return total

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return what the layer computes of inputs of the model."""
        assert self.layer is not None
        return _outputs(self.run, self.layer, inputs, pass_size(inputs, self.chunk_size))

    def _passes(self, points: Tensor) -> Sequence[Tensor]:
        """Return the indices of the samples that share each pass."""
        return torch.split(torch.arange(len(points), device=points.device), pass_size(points, self.chunk_size))

    def _memory_safe(self, number: int) -> int:
        """Return how many of ``number`` points share a pass, so that activations take 44 MiB on a CPU, else 1 GiB."""
        if number <= FEW:
            return FEW
        point_bytes = max(self._activation_bytes(2) - self._activation_bytes(1), 1)
        budget = _ACTIVATION_BYTES.get(self.points.device.type, _ACTIVATION_BYTES_ACCELERATOR)
        return min(max(budget // point_bytes, 1), _MOST_POINTS)

    def _activation_bytes(self, number: int) -> int:
        """Return how many bytes autograd saves in a forward pass of ``number`` copies of the first sample."""
        storages: dict[int, torch.UntypedStorage] = {}
        nothing = torch.empty(0)  # saved instead, as there is no backward pass

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return nothing

        rows = torch.zeros(number, dtype=torch.int64, device=self.points.device)
        points = self.points[rows].requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.scores_at(points, rows)
        return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def score(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    forward: Forward | None = None,
    at: str | None = None,
    chunk_size: int | None = None,
    autocast: bool = False,
) -> Iterator[Score]:
    """Yield the :class:`Score` of some images, while the model is undisturbed.

    The arguments are those of :func:`smooth_grad`.
    """
    check_targets(images, targets) if at is not None else check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward_of(model, forward)
    with undisturbed(model), ExitStack() as stack:
        if autocast:
            stack.enter_context(torch.autocast(images.device.type, dtype=torch.bfloat16))
        inputs = model_input(model, images)
        layer = None if at is None else module_named(model, at, argument="at")
        points = inputs if layer is None else _outputs(run, layer, inputs, pass_size(inputs, chunk_size))
        yield Score(run, inputs, targets, points, layer, chunk_size)


def _outputs(run: Forward, layer: nn.Module, inputs: Tensor, chunk_size: int) -> Tensor:
    """Return the outputs of a layer for inputs of the model, without gradients."""
    parts = []
    with torch.no_grad():
        for part in torch.split(inputs, chunk_size):
            with captured_output(layer) as capture:
                run(part)
            parts.append(capture.value)
    return torch.cat(parts)
