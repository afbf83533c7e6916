"""The passes of a model that all methods consist of: checked inputs, logits with a graph, scores and their gradients.

A *target* is the class y whose logit z_y is explained, or a pair (a, b) of classes, for which z_a - z_b is explained.
The *score* of a sample is this logit, or this difference.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.observation import (
    captured_output,
    checked_logits,
    floating_dtype,
    forward_of,
    gradients_throughout,
    nodes_behind,
    two_class_logits,
    undisturbed,
)

Forward = Callable[[Tensor], Tensor]

FEW, _MORE = 8, 16  # number of images in one pass: more are not faster on a CPU, and need more memory
_SMALL = 2**14  # of images with at most this many numbers, _MORE share a pass
_NOTHING = torch.empty(0)  # stands for results that no method needs
# In float16, gradients below 6e-8 become 0, and those above 65504 infinite. The largest scale that makes none infinite
# is used.
_SCALES = tuple(2.0**power for power in range(14, -19, -4))


def pass_size(points: Tensor, chunk_size: int | None) -> int:
    """Return how many images, or outputs of a layer, share a pass: ``chunk_size``, by default 16 small or 8 large."""
    return chunk_size or (_MORE if points.shape[1:].numel() <= _SMALL else FEW)


def chunks(images: Tensor, targets: Tensor, chunk_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and the targets of each pass."""
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
    """Raise a ValueError unless images are floating with shape (N, C, *spatial), and there is a target for each."""
    if images.ndim < 3 or not images.is_floating_point():
        raise ValueError(
            f"Expected `images` to be floating and of shape (N, C, *spatial), got {tuple(images.shape)}, "
            f"{images.dtype}. {_advice_for(images)}"
        )
    check_targets(images, targets)


def _advice_for(images: Tensor) -> str:
    """Return what a user can do if a method cannot explain such images."""
    if images.is_complex():
        return "Pass real and imaginary parts as channels, and `forward=` with a callable that puts them together."
    if images.ndim > 2 and not images.is_floating_point():
        return (
            "If the model scales the images itself, pass `images.float()`. If not, pass the images as they were "
            "scaled for training."
        )
    return "Pass them as the model expects them, or explain the output of an embedding with `at=`."


@contextmanager
def prepared(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None, chunk_size: int | None
) -> Iterator[tuple[Forward, Tensor]]:
    """Yield the callable that gives logits, and the images in the model's dtype, while the model is undisturbed.

    Raises:
        ValueError: If images and targets do not go together, or ``chunk_size`` is not positive.
    """
    check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    with undisturbed(model):
        yield forward_of(model, forward), model_input(model, images)


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
    """Return logits (N, K) whose graph reaches the leaf, even if the model switches gradients off in between.

    Such a model, for instance a linear probe on a frozen backbone, runs a second time, in which ``no_grad``,
    ``inference_mode`` and ``detach`` have no effect. So the whole function that it computes is explained.

    Args:
        run: Callable that returns the logits of the leaf.
        leaf: The tensor to differentiate by. If it requires no gradients, the model runs once.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        restart: Called before the second run.
    """
    logits, guard = uncut_graph(run, leaf, targets)
    if guard is None and logits is not None:
        return logits
    restart()
    try:
        with guard or nullcontext():
            return as_logits(run(leaf), targets)
    except RuntimeError:
        if logits is None:
            raise
        return logits  # the model may call numpy, which takes no tensor with a graph


def uncut_graph(
    run: Forward, leaf: Tensor, targets: Tensor
) -> tuple[Tensor | None, AbstractContextManager[None] | None]:
    """Return the logits of one run, and a context in which the model cannot cut the graph between leaf and logits.

    The context is None if the run has not cut the graph, or if no gradients are needed. The logits are None if the run
    has failed because it mixed tensors of ``inference_mode`` with others. If the model detaches the logits themselves,
    they stay detached: this was intended.
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


def connected_run(run: Forward, images: Tensor, target: int) -> Forward:
    """Return a callable that gives logits whose graph reaches all layers, as :func:`connected_logits` does.

    Args:
        run: Callable(images) -> logits.
        images: Some of its inputs, in the model's dtype.
        target: A class.
    """
    leaf = images[:1].clone().requires_grad_()
    try:
        _, guard = uncut_graph(run, leaf, torch.tensor([target], device=leaf.device))
    except RuntimeError:  # such as that of x.numpy(), which an input without gradients has
        return run

    def run_throughout(x: Tensor) -> Tensor:
        with gradients_throughout():
            return run(x)

    return run if guard is None else run_throughout


def _reaches(logits: Tensor, leaf: Tensor) -> bool:
    """Return whether the graph of the logits contains the leaf."""
    return any(getattr(node, "variable", None) is leaf for node in nodes_behind([logits.grad_fn]))


def scores_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the scores of logits (N, K): z_y, or z_a - z_b for pairs of classes. Shape ``(N,)``."""
    if targets.ndim == 1:
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    pairs = logits.gather(1, targets)
    return pairs[:, 0] - pairs[:, 1]


def output_scores(output: object, targets: Tensor) -> Tensor:
    """Return the scores (N,), float32, of what a model returned (:func:`as_logits`, :func:`scores_of`)."""
    return scores_of(as_logits(output, targets).float(), targets)


def gradients(scores: Tensor, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return the gradient of each sample's score with respect to each named tensor.

    If a tensor is float16, the scores are multiplied by a power of two, and the gradients are divided by it in float32.
    So small gradients do not become 0. With other dtypes, gradients are not scaled and keep the dtype of the tensor.

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
    """Return the gradients; raise a ValueError if the scores do not depend on a tensor.

    Args:
        scores: Shape ``(N,)``.
        tensors: The tensors to differentiate by, by the names that the error gives them.
        retain: Whether to keep the graph for another backward pass.
    """
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
class Pass:
    """What one forward and one backward pass compute. Entries that no method needs are empty.

    Attributes:
        x: The images, shape ``(N, C, *spatial)``.
        x_gradient: Gradients of the scores with respect to the images, float32.
        activation: Feature maps of the target layer, shape ``(N, channels, *layer_spatial)``, float32.
        activation_gradient: Gradients of the scores with respect to the feature maps, float32.
    """

    x: Tensor
    x_gradient: Tensor
    activation: Tensor
    activation_gradient: Tensor


Formula = Callable[[Pass], Tensor]
"""Computes the maps of one method from a pass."""
Arrange = Callable[[Tensor], Tensor]
"""Brings the output of a layer to the shape (N, C, *spatial)."""


def one_pass(
    run: Forward, x: Tensor, targets: Tensor, *, layer: nn.Module | None, arrange: Arrange, to_images: bool
) -> tuple[Pass, Tensor]:
    """Run one forward and one backward pass. Return the :class:`Pass`, and the logits (N, K) in float32.

    Args:
        run: Callable that returns the logits of images.
        x: Images.
        targets: Shape ``(N,)`` or ``(N, 2)``.
        layer: The target layer, or None if no method needs one.
        arrange: Brings the output of the layer to the shape (N, C, *spatial).
        to_images: Whether gradients with respect to the images are needed.
    """
    leaf = x.clone().requires_grad_()
    with captured_output(layer) if layer is not None else nullcontext() as capture:
        logits = connected_logits(run, leaf, targets).float()
        leaves = {} if capture is None else {"the target layer": capture.behind(logits)}
    if to_images:
        leaves["images"] = leaf
    gradient_of = dict(zip(leaves, gradients(scores_of(logits, targets), leaves), strict=True))
    return Pass(
        x=leaf.detach(),
        x_gradient=gradient_of["images"].float() if to_images else _NOTHING,
        activation=_NOTHING if capture is None else arrange(leaves["the target layer"].detach()).float(),
        activation_gradient=_NOTHING if capture is None else arrange(gradient_of["the target layer"]).float(),
    ), logits.detach()
