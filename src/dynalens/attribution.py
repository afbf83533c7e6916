"""Where a model looks: maps of relevance, all methods from one forward and one backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.observation import (
    captured_output,
    floating_dtype,
    module_named,
    output_shapes,
    two_class_logits,
    undisturbed,
)

Forward = Callable[[Tensor], Tensor]

# What keeps or shrinks a feature map without computing one.
_PASSIVE = ("Pool", "Dropout", "Identity", "Flatten", "Upsample", "Pad")


@dataclass(frozen=True)
class Explanation:
    """Maps of one batch.

    Attributes:
        maps: For each method, float32: ``(N, C, *spatial)`` for input methods, ``(N, *layer_spatial)`` for Grad-CAM.
        logits: Shape ``(N, K)``, float32.
        target_layer: Dotted name of the layer that Grad-CAM used; None where no method needs one.
    """

    maps: dict[str, Tensor]
    logits: Tensor
    target_layer: str | None


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass: inputs x, activations A of the layer, and the gradients of the target's logit."""

    x: Tensor
    x_gradient: Tensor
    activation: Tensor | None
    activation_gradient: Tensor | None


def _saliency(seen: _Pass) -> Tensor:
    return seen.x_gradient


def _input_x_gradient(seen: _Pass) -> Tensor:
    return seen.x * seen.x_gradient


def _cam(seen: _Pass) -> Tensor:
    assert seen.activation is not None
    assert seen.activation_gradient is not None
    weights = seen.activation_gradient.flatten(2).mean(dim=2)
    return torch.einsum("nc,nc...->n...", weights, seen.activation)


def _grad_cam(seen: _Pass) -> Tensor:
    return _cam(seen).relu()


_METHODS: dict[str, Callable[[_Pass], Tensor]] = {
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "grad_cam": _grad_cam,
}
_NEED_LAYER = ("grad_cam",)


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple, or raise a ValueError that lists the known ones."""
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    unknown = [name for name in names if name not in _METHODS]
    if unknown or not names:
        raise ValueError(
            f"Expected `methods` to be among {', '.join(_METHODS)}, got {unknown or 'none'}. Name one or more of them."
        )
    return names


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    methods: Sequence[str] = ("saliency", "grad_cam"),
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int = 32,
) -> Explanation:
    """Return the maps of several methods, from one shared forward and backward pass for each chunk of images.

    The model is in evaluation mode meanwhile and afterwards as it was: modes, gradients, buffers, random numbers.

    Args:
        model: The model whose layers are looked at.
        images: Shape ``(N, C, *spatial)``, floating, as the model expects them. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K). Class to explain for each image.
        methods: Names: ``saliency``, ``input_x_gradient``, ``grad_cam``.
        target_layer: Dotted name of Grad-CAM's layer; default: :func:`find_target_layer`.
        forward: Callable(images) -> logits, (N, K), or (N,) or (N, 1) for two classes; default: ``model``.
        chunk_size: Images in one pass; bounds the memory.

    Raises:
        ValueError: If a method or the layer is unknown, shapes do not agree, the output is no logits, or a map is
            not finite.
    """
    names = check_methods(methods)
    _check_inputs(images, targets)
    run = forward if forward is not None else model
    with undisturbed(model):
        x = images.detach().to(floating_dtype(model, images))
        layer = target_layer
        if layer is None and any(name in _NEED_LAYER for name in names):
            layer = find_target_layer(model, x, forward=forward)
        chunks = [
            _one_pass(run, None if layer is None else module_named(model, layer), x_part, y_part)
            for x_part, y_part in zip(torch.split(x, chunk_size), torch.split(targets, chunk_size), strict=True)
        ]
        maps = {name: torch.cat([_METHODS[name](seen) for seen, _ in chunks]).detach().float() for name in names}
        logits = torch.cat([logits for _, logits in chunks])
    _check_finite(maps)
    return Explanation(maps, logits, layer)


def saliency(model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None) -> Tensor:
    r"""Return the saliency map, the gradient of the target's logit.

    :math:`\partial z_y / \partial x` with image :math:`x` and logit :math:`z_y` of the target :math:`y`.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2014, section 3.
    Differs from the source, and from Captum's default: the sign is kept; ``reduce_channels`` takes the absolute value.

    Args:
        model: See :func:`explain`.
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K).
        forward: Callable(images) -> logits; default: ``model``.

    Returns:
        Shape ``(N, C, *spatial)``, float32, on the device of ``images``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> saliency(model, torch.zeros(1, 1, 1, 2), torch.tensor([0]))
        tensor([[[[ 1., -2.]]]])
    """
    return explain(model, images, targets, methods=("saliency",), forward=forward).maps["saliency"]


def input_x_gradient(model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None) -> Tensor:
    r"""Return input times gradient, :math:`x \cdot \partial z_y / \partial x`.

    Source: Shrikumar et al., "Not Just a Black Box", 2016.

    Args:
        model: See :func:`explain`.
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K).
        forward: Callable(images) -> logits; default: ``model``.

    Returns:
        Shape ``(N, C, *spatial)``, float32, signed. For a model without biases and with ReLUs it sums to z_y.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> input_x_gradient(model, torch.full((1, 1, 1, 2), 5.0), torch.tensor([0]))
        tensor([[[[  5., -10.]]]])
    """
    return explain(model, images, targets, methods=("input_x_gradient",), forward=forward).maps["input_x_gradient"]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    target_layer: str | None = None,
    forward: Forward | None = None,
) -> Tensor:
    r"""Return the Grad-CAM map at the resolution of the layer.

    :math:`\mathrm{ReLU}\bigl(\sum_c \alpha_c A_c\bigr)`, with the layer's feature maps :math:`A_c` and
    :math:`\alpha_c` the spatial mean of :math:`\partial z_y / \partial A_c`.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2. Captum leaves the ReLU out by default.

    Args:
        model: See :func:`explain`.
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        targets: Shape ``(N,)``, int64, in [0, K).
        target_layer: Dotted name; default: :func:`find_target_layer`.
        forward: Callable(images) -> logits; default: ``model``.

    Returns:
        Shape ``(N, *layer_spatial)``, float32, >= 0. ``resize`` brings it to the size of the images.
    """
    return explain(model, images, targets, methods=("grad_cam",), target_layer=target_layer, forward=forward).maps[
        "grad_cam"
    ]


def find_target_layer(model: nn.Module, images: Tensor, *, forward: Forward | None = None) -> str:
    """Return the dotted name of the last layer with a feature map: the usual choice for Grad-CAM in a CNN.

    It is the submodule that finishes last among those whose output has the images' number of dimensions and more
    than one position; pooling, dropout and the like are passed over. A block counts as its last layer: in a
    ResNet of torchvision it is ``layer4``.

    Args:
        model: The model; run once, on the first image.
        images: Shape ``(N, C, *spatial)``, floating.
        forward: Callable(images) -> logits; default: ``model``.

    Raises:
        ValueError: If there is no such layer.
    """
    run = forward if forward is not None else model
    with undisturbed(model), torch.no_grad(), output_shapes(model) as seen:
        run(images[:1].to(floating_dtype(model, images)))
    found = [
        name
        for name, module, shape in seen
        if name
        and len(shape) == images.ndim
        and shape[2:].numel() > 1
        and not any(word in type(module).__name__ for word in _PASSIVE)
    ]
    if not found:
        raise ValueError(
            "Expected a model with a layer whose output is (N, C, *spatial) and larger than one position, got none in "
            f"{type(model).__name__}. Pass `target_layer=` or leave `grad_cam` out of `methods`."
        )
    return found[-1]


def find_forward(model: nn.Module, images: Tensor) -> Forward:
    """Return what gives logits: the model, or its only child that does where it has no ``forward`` of its own.

    Raises:
        ValueError: If no child or several of them give logits.
    """
    with undisturbed(model), torch.no_grad():
        x = images[:1].to(floating_dtype(model, images))
        try:
            model(x)
        except NotImplementedError:
            children = [(name, child) for name, child in model.named_children() if _gives_logits(child, x)]
        else:
            return model
    if len(children) != 1:
        raise ValueError(
            f"Expected {type(model).__name__} to have a `forward` or one child that gives logits for images, got "
            f"{[name for name, _ in children]}. Pass `forward=` with a callable(pl_module, images) -> logits."
        )
    return children[0][1]


def reduce_channels(maps: Tensor, how: str = "abs_max") -> Tensor:
    """Return maps without their channels.

    Args:
        maps: Shape ``(N, C, *spatial)``.
        how: "abs_max" (largest absolute value, as Simonyan et al. show saliency), "abs_sum" or "sum" (signed).

    Returns:
        Shape ``(N, *spatial)``.

    Raises:
        ValueError: If ``how`` is unknown.

    Example:
        >>> reduce_channels(torch.tensor([[[1.0], [-3.0]]]), "sum")
        tensor([[-2.]])
    """
    reductions: dict[str, Callable[[Tensor], Tensor]] = {
        "abs_max": lambda m: m.abs().amax(dim=1),
        "abs_sum": lambda m: m.abs().sum(dim=1),
        "sum": lambda m: m.sum(dim=1),
    }
    if how not in reductions:
        raise ValueError(f"Expected `how` to be one of {', '.join(reductions)}, got {how!r}. Choose one of them.")
    return reductions[how](maps)


def pixel_relevance(method: str, maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return one relevance for each pixel: what a picture shows and what deletion orders by.

    Saliency becomes its largest absolute value over channels (Simonyan et al. 2014, section 3.1); input times gradient
    its sum, as contributions add up; Grad-CAM is brought to the size of the images.

    Args:
        method: Name of the method.
        maps: What :func:`explain` gave for it.
        size: Height and width of the images.

    Returns:
        Shape ``(N, *size)``.
    """
    if method in _NEED_LAYER:
        return resize(maps, size)
    return reduce_channels(maps, "sum" if method == "input_x_gradient" else "abs_max")


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return two-dimensional maps (N, h, w) at another size, bilinear with aligned outer edges of the pixels.

    This is ``torch.nn.functional.interpolate`` with ``align_corners=False``, as OpenCV and pytorch-grad-cam do it;
    Captum's default is nearest.
    """
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def _one_pass(run: Forward, layer: nn.Module | None, images: Tensor, targets: Tensor) -> tuple[_Pass, Tensor]:
    x = images.clone().requires_grad_()
    if layer is None:
        logits = _as_logits(run(x), targets)
        return _Pass(x.detach(), _gradients(logits, targets, [x])[0], None, None), logits.detach().float()
    with captured_output(layer) as captured:
        logits = _as_logits(run(x), targets)
        activation = captured.value
    x_gradient, activation_gradient = _gradients(logits, targets, [x, activation])
    return _Pass(x.detach(), x_gradient, activation.detach(), activation_gradient), logits.detach().float()


def _gradients(logits: Tensor, targets: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    scores = logits.gather(1, targets.unsqueeze(1))
    found = torch.autograd.grad(scores.sum(), of, allow_unused=True) if scores.requires_grad else [None] * len(of)
    missing = [part for part, gradient in zip(("images", "target layer"), found, strict=False) if gradient is None]
    if missing:
        raise ValueError(
            f"Expected the logits to depend on images and target layer, got no gradient for {', '.join(missing)}. "
            "Is the forward pass under `no_grad`, or the layer not on the way to the logits?"
        )
    return tuple(gradient for gradient in found if gradient is not None)


def _as_logits(output: object, targets: Tensor) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim not in (1, 2) or len(output) != len(targets):
        seen = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(
            f"Expected the model to return logits of shape ({len(targets)}, K), got {seen}. "
            "Pass `forward=` with a callable that returns them."
        )
    logits = two_class_logits(output)
    if bool(((targets < 0) | (targets >= logits.shape[1])).any()):
        raise ValueError(
            f"Expected `targets` to be in [0, {logits.shape[1]}), got {int(targets.min())} to {int(targets.max())}. "
            "Pass the class to explain for each image."
        )
    return logits


def _gives_logits(module: nn.Module, x: Tensor) -> bool:
    try:
        output = module(x)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError):
        return False  # a loss, a metric or a part of the network
    return isinstance(output, Tensor) and output.ndim in (1, 2) and output.is_floating_point() and len(output) == len(x)


def _check_inputs(images: Tensor, targets: Tensor) -> None:
    if images.ndim < 3 or not images.is_floating_point():
        raise ValueError(
            f"Expected `images` to be floating and of shape (N, C, *spatial), got {tuple(images.shape)}, "
            f"{images.dtype}. Pass them as the model expects them."
        )
    if targets.shape != images.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"Expected `targets` of shape ({len(images)},), int64, one class for each image, got "
            f"{tuple(targets.shape)}, {targets.dtype}. Pass class indices, not one-hot rows."
        )


def _check_finite(maps: dict[str, Tensor]) -> None:
    for name, values in maps.items():
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"Expected finite maps, got NaN or infinity in {name}. Are the weights or the images finite?"
            )
