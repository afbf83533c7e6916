"""Several methods at once, which share forward and backward passes where they can."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.cam import shared_passes
from dynalens.attribution.layers import find_embedding, find_target_layer
from dynalens.attribution.methods import (
    BUILT_IN,
    ONE_PASS,
    TOKEN_METHODS,
    Function,
    Method,
    MethodArgs,
    blind_to_tokens,
    check_methods,
    explains_outputs,
    is_adapted,
    takes,
)
from dynalens.attribution.passes import Forward, as_logits, check_images, check_targets, chunks, model_input
from dynalens.observation import forward_of, is_tokens, logits_in, undisturbed, unit_logits_in

_OF_OTHER_ARGUMENTS = (TypeError, ValueError, LookupError, AttributeError)
"""Errors of a ``forward`` that is given a tensor in place of a batch."""


@dataclass(frozen=True)
class Explanation:
    """The maps of one batch, as :func:`explain` returns them.

    Attributes:
        maps: For the name of each method its maps, float32: ``(N, C, *spatial)`` for maps of the input,
            ``(N, *layer_spatial)`` for class activation maps and rollouts, and ``(N, T, C)`` for tokens at an embedding
            with C channels.
        logits: Shape ``(N, K)``, float32.
        target_layer: Dotted name of the layer that class activation maps used, or None if no method needed one.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0], [-1.0]]))
        >>> explain(model, torch.full((1, 1, 1, 1), 3.0), torch.tensor([0]), methods="saliency")
        Explanation(maps={'saliency': tensor([[[[2.]]]])}, logits=tensor([[ 6., -3.]]), target_layer=None)
    """

    maps: dict[str, Tensor]
    logits: Tensor
    target_layer: str | None


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    methods: Sequence[Method] | Method = ("saliency", "grad_cam"),
    method_args: MethodArgs | None = None,
    target_layer: str | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Explanation:
    """Return the maps of several methods for one batch.

    Saliency, input x gradient, Grad-CAM, Grad-CAM++ and LayerCAM share one forward and one backward pass per chunk of
    images, unless ``method_args`` has an entry for them. The model runs in evaluation mode and is left as it was:
    modes, hooks, gradients, buffers and random numbers.

    Args:
        model: The model.
        images: Shape ``(N, C, *spatial)``, floating, as the model expects them. Or tokens ``(N, T)``, integers: the
            gradient methods then explain the output of the embedding (``at``, by default :func:`find_embedding`). Not
            modified.
        targets: Shape ``(N,)``, int64, in [0, K): the class to explain for each image. Or pairs of classes, ``(N, 2)``,
            as for :func:`contrast`.
        methods: Names of built-in methods; "captum:<Class>" for a class of ``captum.attr`` whose method ``attribute``
            takes inputs and ``target``; "zennit:<Composite>", such as "zennit:EpsilonPlusFlat", for relevance
            propagation; "lxt:attnLRP" or "lxt:cp_LRP" for relevance propagation in transformers; callables (model,
            images, targets) that return maps, or dotted paths of such callables. A callable is named by its
            ``__name__``.
        method_args: For the name of a method, the arguments of its function, as in
            ``{"smooth_grad": {"samples": 10}}``. For a class of Captum, arguments of its constructor and of
            ``attribute``; ``layer`` is a dotted name or a list of names.
        target_layer: Dotted name of the layer for class activation maps. Default: :func:`find_target_layer`, which
            costs one more pass of one image.
        forward: Callable(images) that returns logits, shape ``(N, K)``; for two classes also ``(N,)`` or ``(N, 1)``.
            Default: ``model``.
        chunk_size: Number of images in one pass, which limits the memory. Default: as each method documents it.

    Raises:
        ValueError: If a method, an argument or the layer is unknown, shapes do not agree, the output is not a tensor of
            logits, or a map is not finite.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> images, targets = torch.full((1, 1, 1, 2), 5.0), torch.tensor([0])
        >>> explain(model, images, targets, methods=["saliency", "input_x_gradient"]).maps
        {'saliency': tensor([[[[ 1., -2.]]]]), 'input_x_gradient': tensor([[[[  5., -10.]]]])}
    """
    functions, arguments = check_methods(methods, method_args), method_args or {}
    if is_tokens(images):
        arguments = _with_embedding(model, images, forward, functions, arguments)
    formulas = {name: ONE_PASS[name] for name in functions if name in ONE_PASS and not arguments.get(name)}
    check_images(images, targets) if formulas else check_targets(images, targets)
    check_positive(chunk_size=chunk_size)
    layer = target_layer if any(_looks_at_a_layer(f) for f in functions.values()) else None
    with undisturbed(model):
        is_searched = layer is None and any(_searches(name, f, arguments) for name, f in functions.items())
        if is_searched and not is_tokens(images):
            layer = find_target_layer(model, images, forward=forward)
        common: dict[str, Any] = {"forward": forward, "chunk_size": chunk_size}
        if formulas:
            maps, logits = shared_passes(model, images, targets, formulas, target_layer=layer, **common)
        else:
            maps, logits = {}, _logits(model, images, targets, **common)
        for name in functions.keys() - maps.keys():
            options = _options(name, functions[name], arguments.get(name, {}), layer, common)
            maps[name] = _checked_maps(name, functions[name](model, images, targets, **options), len(images))
    return Explanation({name: maps[name] for name in functions}, logits, layer)


def _with_embedding(
    model: nn.Module, tokens: Tensor, forward: Forward | None, functions: dict[str, Function], arguments: MethodArgs
) -> MethodArgs:
    """Return the arguments of the methods, with the name of the embedding as ``at`` where a method needs it."""
    blind_methods = blind_to_tokens(functions)
    if blind_methods:
        raise ValueError(
            f"Expected `methods` for tokens {tuple(tokens.shape)}, {tokens.dtype}, to be among "
            f"{', '.join(TOKEN_METHODS)}, captum:<Class> and callables, got {', '.join(blind_methods)}. Tokens have no "
            "feature maps: use a method that explains the output of their embedding."
        )
    names_without_layer = [name for name in functions if explains_outputs(name) and "at" not in arguments.get(name, {})]
    if not names_without_layer:
        return arguments
    embedding = find_embedding(model, tokens, forward=forward)
    return {**arguments, **{name: {**arguments.get(name, {}), "at": embedding} for name in names_without_layer}}


def _looks_at_a_layer(function: Function) -> bool:
    return takes(function, "target_layer") or takes(function, "layer")


def _searches(name: str, function: Function, arguments: MethodArgs) -> bool:
    own_arguments = arguments.get(name, {})
    return _looks_at_a_layer(function) and not (own_arguments.get("target_layer") or own_arguments.get("layer"))


def _options(
    name: str, function: Function, own_arguments: Mapping[str, Any], layer: str | None, common: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a method besides model, images and targets. A user's own callable gets no others."""
    if name not in BUILT_IN and not is_adapted(name):
        return dict(own_arguments)
    options = {**common, **own_arguments}
    for argument in ("target_layer", "layer"):
        if takes(function, argument):
            options.setdefault(argument, layer)
    return options


def _checked_maps(name: str, maps: Any, images: int) -> Tensor:
    """Return the maps of one method, detached and in float32, or raise a ValueError if they are not finite maps."""
    if not isinstance(maps, Tensor) or len(maps) != images or not bool(maps.isfinite().all()):
        kind = f"a tensor of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
        problem = " with NaN or infinity" if isinstance(maps, Tensor) and len(maps) == images else ""
        raise ValueError(
            f"Expected {name} to return a finite map for each of {images} images, got {kind}{problem}. "
            "Return a tensor (N, C, *spatial) or (N, *spatial)."
        )
    return maps.detach().float()


def _logits(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None, chunk_size: int | None
) -> Tensor:
    run, x = forward_of(model, forward), model_input(model, images)
    with torch.no_grad():
        return torch.cat([as_logits(run(x_part), y_part).float() for x_part, y_part in chunks(x, targets, chunk_size)])


def find_forward(
    model: nn.Module, images: Tensor, *, dense: bool = False, network: Sequence[str | None] | None = None
) -> Forward:
    """Return a callable(images) -> logits: the model, or a part of it if its ``forward`` does not take images.

    This is so if the model has no ``forward``, or one that takes a whole batch or keywords only, such as
    ``forward(**batch)``. Then the only child that returns logits is returned. If it is known from a training step which
    modules compute the logits, these are returned instead, also if the model has a ``forward`` that ends before the
    logits.

    Args:
        model: The module.
        images: Some of its inputs.
        dense: Whether the logits are those of each token or pixel.
        network: Dotted names of the modules that compute the logits, one after another. "" is the model, and None
            stands for a computation outside of modules. Default: this is not known.

    Raises:
        ValueError: If no child or several of them return logits, or if a part of ``network`` is no module.

    Example:
        >>> class Step(torch.nn.Module):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.network = torch.nn.Flatten()
        ...
        ...     def forward(self, *, image: Tensor) -> Tensor:
        ...         return self.network(image)
        >>> find_forward(Step(), torch.ones(1, 1, 2, 2))
        Flatten(start_dim=1, end_dim=-1)
    """
    path = tuple(network or ())
    if path[:1] == ("",) and len(path) > 1:  # `forward` ends before the logits
        return _one_after_another(model, path)
    is_whole = path in ((), ("",))
    # What a module raises that has no `forward` of its own, and one whose `forward` takes the whole batch.
    of_forward = (NotImplementedError,) if is_whole else (NotImplementedError, *_OF_OTHER_ARGUMENTS)  # torch's error
    with undisturbed(model), torch.no_grad():
        x = model_input(model, images[:1])
        if _takes(model, x):
            with suppress(*of_forward):
                forward_of(model, None)(x)
                return model
        if not is_whole:
            return _one_after_another(model, path)
        children = [(name, child) for name, child in model.named_children() if _gives_logits(child, x, dense=dense)]
    if len(children) != 1:
        raise ValueError(
            f"Expected {type(model).__name__} to have a `forward` or one child that gives logits for images, got "
            f"{', '.join(name for name, _ in children) or 'none'}. Pass `forward=` with a callable(pl_module, images) "
            "-> logits."
        )
    return children[0][1]


def _one_after_another(model: nn.Module, path: Sequence[str | None]) -> Forward:
    """Return a callable that passes inputs through these modules of a model, one after another."""
    if None in path:
        raise ValueError(
            f"Expected {type(model).__name__} to have a `forward` that returns the logits of its loss, got a training "
            "step that calls several modules and computes something between them. Pass `forward=` with a "
            "callable(pl_module, images) -> logits that does the same."
        )
    modules = [model.get_submodule(name) for name in path if name is not None]

    def run(x: Tensor) -> Any:
        for module in modules:
            x = module(x)
        return x

    return modules[0] if len(modules) == 1 else run


def _takes(model: nn.Module, x: Tensor) -> bool:
    """Return whether the signature of the model's ``forward`` accepts one tensor."""
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError:
        return False
    except ValueError:
        pass  # it has no signature, so only a call can tell
    return True


def _gives_logits(module: nn.Module, x: Tensor, *, dense: bool) -> bool:
    """Return whether a module returns logits for an input; with ``dense``, logits for each token or pixel."""
    try:
        output = module(x.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # it may be a loss or a metric
        return False
    output = unit_logits_in(output) if dense else logits_in(output)
    if not isinstance(output, Tensor) or (output.ndim > 2) != dense or not output.ndim:
        return False
    return output.is_floating_point() and len(output) == len(x)
