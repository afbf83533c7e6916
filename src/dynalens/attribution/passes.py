"""The score of a class and its gradient: what all methods are made of.

Terms of the package. *Target*: the class whose logit z_y is explained, or a pair (a, b) that stands for z_a - z_b.
*Points*: where the score is differentiated: images, or the output of a layer for them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.observation import (
    captured_output,
    checked_logits,
    floating_dtype,
    gradients_throughout,
    module_named,
    nodes_behind,
    replaced_output,
    two_class_logits,
    undisturbed,
    unwrap,
)

Forward = Callable[[Tensor], Tensor]

_FEW, _MORE = 8, 16  # images in one pass: more are not faster on a CPU, and cost memory
_SMALL = 2**14  # images with at most this many numbers share larger passes
_MOST_POINTS = 32
_NOTHING = torch.empty(0)  # stands for results that nobody asked for
_KEPT_BYTES = {"cpu": 44 * 2**20}  # two images of 224 x 224 in a ResNet-18; passes of one image take a third longer
_KEPT_BYTES_ACCELERATOR = 2**30
# Half precision underflows below 6e-8 and overflows above 65504: the largest scale that stays finite is taken.
_SCALES = tuple(2.0**power for power in range(14, -19, -4))


def pass_size(points: Tensor, chunk_size: int | None) -> int:
    """Return how many images, or outputs of a layer, share a pass: where nothing is said 16 small ones, else 8."""
    return chunk_size or (_MORE if points.shape[1:].numel() <= _SMALL else _FEW)


def chunks(images: Tensor, targets: Tensor, chunk_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the images and the targets that share each pass."""
    size = pass_size(images, chunk_size)
    return zip(torch.split(images, size), torch.split(targets, size), strict=True)


def model_input(model: nn.Module, images: Tensor) -> Tensor:
    """Return detached images in the model's dtype; integers, such as tokens, stay as they are."""
    return images.detach().to(floating_dtype(model, images)) if images.is_floating_point() else images


def check_targets(images: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless there is a class, or a pair of classes, for each image."""
    if targets.shape not in (images.shape[:1], (*images.shape[:1], 2)) or targets.dtype != torch.int64:
        raise ValueError(
            f"Expected `targets` of shape ({len(images)},), int64, one class for each image, got "
            f"{tuple(targets.shape)}, {targets.dtype}. Pass class indices, not one-hot rows."
        )


def check_images(images: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless images are floating and have positions, and targets go with them."""
    if images.ndim < 3 or not images.is_floating_point():
        raise ValueError(
            f"Expected `images` to be floating and of shape (N, C, *spatial), got {tuple(images.shape)}, "
            f"{images.dtype}. {_way_for(images)}"
        )
    check_targets(images, targets)


def _way_for(images: Tensor) -> str:
    if images.is_complex():
        return "Pass real and imaginary parts as channels, and `forward=` with a callable that puts them together."
    if images.ndim > 2 and not images.is_floating_point():
        return (
            "If the model scales the images itself, pass `images.float()`. If not, pass the images as they were "
            "scaled for training."
        )
    return "Pass them as the model expects them, or explain the output of an embedding with `at=`."


def check_finite(name: str, maps: Tensor) -> Tensor:
    """Return the maps in float32, or raise a ValueError if one has NaN or infinity."""
    if not bool(maps.isfinite().all()):
        raise ValueError(
            f"Expected finite maps, got NaN or infinity in {name}. Check that the weights and the images are finite."
        )
    return maps.detach().float()


def as_logits(output: object, targets: Tensor) -> Tensor:
    """Return the model's output as logits (N, K), K >= 2, or raise a ValueError if it is none for these targets."""
    output_tensor = checked_logits(output)
    if output_tensor.ndim not in (1, 2) or len(output_tensor) != len(targets):
        raise ValueError(
            f"Expected the model to return logits of shape ({len(targets)}, K), got {tuple(output_tensor.shape)}. "
            "Pass `forward=` with a callable that returns them."
        )
    logits = two_class_logits(output_tensor)
    if bool(((targets < 0) | (targets >= logits.shape[1])).any()):
        raise ValueError(
            f"Expected `targets` to be in [0, {logits.shape[1]}), got {int(targets.min())} to {int(targets.max())}. "
            "Pass the class to explain for each image. If the model is no classifier, pass `forward=` with a callable "
            "that returns logits of what is to be explained."
        )
    return logits


def connected_logits(
    run: Forward, leaf: Tensor, targets: Tensor, *, restart: Callable[[], None] = lambda: None
) -> Tensor:
    """Return logits (N, K) with a graph that reaches the leaf, also where the model switches gradients off on the way.

    Then it runs a second time with ``no_grad``, ``inference_mode`` and ``detach`` without effect, as for a backbone
    that is frozen so: a linear probe is explained by the function that it computes.

    Args:
        run: Gives logits of the leaf, or of something that the leaf is part of.
        leaf: Requires gradients; else the model runs once, whatever it does.
        targets: As everywhere.
        restart: Called before the second pass.
    """
    logits, way = uncut_graph(run, leaf, targets)
    if way is None and logits is not None:
        return logits
    restart()
    try:
        with way or nullcontext():
            return as_logits(run(leaf), targets)
    except RuntimeError:
        if logits is None:
            raise
        return logits  # such as of numpy, which takes no tensor with a graph


def uncut_graph(
    run: Forward, leaf: Tensor, targets: Tensor
) -> tuple[Tensor | None, AbstractContextManager[None] | None]:
    """Return the logits of a pass, and what keeps the graph whole where the model cuts it between the leaf and them.

    Nothing is needed where gradients are not wanted. An output that is detached itself stays so: it was meant to be.
    """
    try:
        logits = as_logits(run(leaf), targets)
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        return None, gradients_throughout()
    differentiates = leaf.requires_grad and torch.is_grad_enabled()
    if not differentiates or _reaches(logits, leaf):
        return logits, None
    return logits, gradients_throughout(detached=logits.requires_grad)


def _reaches(logits: Tensor, leaf: Tensor) -> bool:
    return any(getattr(node, "variable", None) is leaf for node in nodes_behind([logits.grad_fn]))


def scores_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return z_y, or z_a - z_b for pairs: shape ``(N,)``."""
    if targets.ndim == 1:
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    pairs = logits.gather(1, targets)
    return pairs[:, 0] - pairs[:, 1]


def gradients(scores: Tensor, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return the gradient of each sample's score with respect to each named tensor.

    Scores in float16 are multiplied by a power of two before, and gradients divided by it in float32 after, so that
    small ones do not underflow; those of other dtypes are the plain gradients, in their own dtype.

    Raises:
        ValueError: If the scores do not depend on one of the tensors.
    """
    if all(tensor.dtype is not torch.float16 for tensor in tensors.values()):
        return _connected_gradients(scores, tensors, retain=False)
    scaled_gradients: list[Tensor] = []
    for scale in _SCALES:
        scaled_gradients = [
            gradient.float() / scale for gradient in _connected_gradients(scores * scale, tensors, retain=True)
        ]
        if all(bool(gradient.isfinite().all()) for gradient in scaled_gradients):
            break
    return scaled_gradients


def _connected_gradients(scores: Tensor, tensors: dict[str, Tensor], *, retain: bool) -> list[Tensor]:
    gradients_or_none: tuple[Tensor | None, ...] = (None,) * len(tensors)
    if scores.requires_grad:
        gradients_or_none = torch.autograd.grad(
            scores.sum(), list(tensors.values()), allow_unused=True, retain_graph=retain
        )
    missing_names = [name for name, gradient in zip(tensors, gradients_or_none, strict=True) if gradient is None]
    if missing_names:
        raise ValueError(
            f"Expected the logits to depend on {' and '.join(tensors)}, got no gradient for "
            f"{', '.join(missing_names)}. Name a layer that the logits are computed from. If the forward pass rounds "
            "numbers or computes outside of torch, use a method that needs no gradient: score_cam, captum:Occlusion or "
            "captum:FeatureAblation."
        )
    return [gradient for gradient in gradients_or_none if gradient is not None]


@dataclass(frozen=True)
class Score:
    """The score of each sample's target as a function of points.

    Attributes:
        run: Gives logits for what the model takes.
        inputs: What the model takes, shape ``(N, ...)``.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        points: Where the samples are: the inputs, or the output of ``layer`` for them. Shape ``(N, ...)``, floating.
        layer: Whose output is varied; None for the inputs.
        chunk_size: Points in one pass.
    """

    run: Forward
    inputs: Tensor
    targets: Tensor
    points: Tensor
    layer: nn.Module | None
    chunk_size: int | None

    def scores_at(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return the scores (P,) at points (P, ...), of which point p stands for sample ``rows[p]``."""
        targets = self.targets[rows]
        if self.layer is None:
            return scores_of(connected_logits(self.run, points, targets).float(), targets)
        with replaced_output(self.layer, points):
            return scores_of(connected_logits(lambda _: self.run(self.inputs[rows]), points, targets).float(), targets)

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return the gradients of :meth:`of` in float32, shape ``(P, ...)``."""
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
        """Return for each sample sum_k w_k times the gradient at its k-th point: float32, the shape of ``points``.

        Args:
            number: Points for each sample.
            place: Called with k = 0, 1, ... in order and the indices of some samples: their k-th points.
            weights: The w_k, shape ``(number,)``.
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
        """Return the layer's outputs for inputs of the model."""
        assert self.layer is not None
        return _outputs(self.run, self.layer, inputs, pass_size(inputs, self.chunk_size))

    def _passes(self, points: Tensor) -> Sequence[Tensor]:
        """Return the indices of the samples that share each pass."""
        return torch.split(torch.arange(len(points), device=points.device), pass_size(points, self.chunk_size))

    def _memory_safe(self, number: int) -> int:
        """Return how many points keep activations within a budget: 44 MiB on a processor, 1 GiB on an accelerator."""
        if number <= _FEW:
            return _FEW
        point_bytes = max(self._kept_bytes(2) - self._kept_bytes(1), 1)
        budget = _KEPT_BYTES.get(self.points.device.type, _KEPT_BYTES_ACCELERATOR)
        return min(max(budget // point_bytes, 1), _MOST_POINTS)

    def _kept_bytes(self, number: int) -> int:
        """Return the bytes that a forward pass of ``number`` copies of the first sample keeps for its backward pass."""
        storages: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return _NOTHING  # there is no backward pass

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
    """Yield the :class:`Score` of an undisturbed model; the arguments are those of ``smooth_grad``."""
    check_targets(images, targets) if at is not None else check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward if forward is not None else unwrap(model)
    with undisturbed(model), ExitStack() as stack:
        if autocast:
            stack.enter_context(torch.autocast(images.device.type, dtype=torch.bfloat16))
        inputs = model_input(model, images)
        layer = None if at is None else module_named(model, at, argument="at")
        points = inputs if layer is None else _outputs(run, layer, inputs, pass_size(inputs, chunk_size))
        yield Score(run, inputs, targets, points, layer, chunk_size)


def _outputs(run: Forward, layer: nn.Module, inputs: Tensor, chunk_size: int) -> Tensor:
    parts = []
    with torch.no_grad():
        for part in torch.split(inputs, chunk_size):
            with captured_output(layer) as capture:
                run(part)
            parts.append(capture.value)
    return torch.cat(parts)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: images x, feature maps A (N, C, *spatial) of a layer, gradients of the score.

    What no method asked for is empty.
    """

    x: Tensor
    x_gradient: Tensor
    activation: Tensor
    activation_gradient: Tensor


Formula = Callable[[Pass], Tensor]
Arrange = Callable[[Tensor], Tensor]


def one_pass(
    run: Forward, x: Tensor, targets: Tensor, *, layer: nn.Module | None, arrange: Arrange, to_images: bool
) -> tuple[Pass, Tensor]:
    """Return what one forward and one backward pass give, and the logits (N, K) in float32.

    Args:
        run: Gives logits.
        x: Images.
        targets: As everywhere.
        layer: Whose output is the activation; None where no method needs one.
        arrange: Brings the layer's output to (N, C, *spatial).
        to_images: Whether the backward pass goes on to the images.
    """
    leaf = x.clone().requires_grad_()
    with captured_output(layer) if layer is not None else nullcontext() as capture:
        logits = connected_logits(run, leaf, targets).float()
        leaves = {} if capture is None else {"the target layer": capture.value}
    if to_images:
        leaves["images"] = leaf
    gradient_of = dict(zip(leaves, gradients(scores_of(logits, targets), leaves), strict=True))
    return Pass(
        x=leaf.detach(),
        x_gradient=gradient_of["images"].float() if to_images else _NOTHING,
        activation=_NOTHING if capture is None else arrange(capture.value.detach()).float(),
        activation_gradient=_NOTHING if capture is None else arrange(gradient_of["the target layer"]).float(),
    ), logits.detach()
