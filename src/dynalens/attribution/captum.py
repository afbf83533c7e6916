"""Attribution classes of Captum as methods, such as ``captum:Occlusion``."""

import inspect
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import installed
from dynalens.attribution.adapted import with_arguments
from dynalens.attribution.layers import arrangement, find_embedding, find_target_layer
from dynalens.attribution.passes import Forward, check_finite, check_targets, model_input, uncut_graph
from dynalens.attribution.relevance import (
    check_called_once,
    check_relu_modules,
    check_sums,
    give_rules,
    is_a,
    layer_with_rule,
)
from dynalens.observation import LogitsModule, forward_of, module_named, out_of_place, seeded, undisturbed, unwrap

PREFIX = "captum:"
_AT_ONCE = 8  # number of images in one call; a method may make many copies of each image, for instance fifty
# The baselines of these classes are a sample of a distribution, not one baseline for each image.
_DISTRIBUTION = ("GradientShap", "DeepLiftShap", "LayerGradientShap", "LayerDeepLiftShap")
_OF_GRADIENTS = ("GradientAttribution", "NoiseTunnel", "NeuronAttribution")
_SEVERAL_LAYERS = ("LayerGradientXActivation", "LayerIntegratedGradients", "LayerLRP")
# This class exchanges features between the images of a batch, so the batch must not be divided.
_WHOLE_BATCH = ("FeaturePermutation",)
_UNUSABLE = {
    "LimeBase": "its constructor needs functions",
    "LayerFeaturePermutation": "it selects its target twice",  # Captum 0.9 raises "Output must be 2D"
}
# Parameters that users do not pass: `run` passes them, or they would change what Captum returns.
_OURS = (
    "self", "model", "forward_func", "inputs", "target", "additional_forward_args", "return_convergence_delta", "args",
    "kwargs",
)  # fmt: skip


def captum_method(name: str) -> Callable[..., Tensor]:
    """Return the method ``captum:<Class>`` as a function (model, images, targets, *, forward, ...) -> maps.

    Its further arguments are those of the class's constructor and of its ``attribute``. Three of them differ:

    - ``layer`` is a dotted name. Default: the layer that :func:`find_target_layer` finds, for tokens
      :func:`find_embedding`. LayerGradientXActivation, LayerIntegratedGradients and LayerLRP also take a list of names
      of layers that do not depend on each other. Their maps are added up.
    - ``attribution_method`` of "captum:NoiseTunnel" is the name of the class that it smooths.
    - ``neuron_selector`` of the Neuron classes is the index of a neuron in the output of ``layer`` for one sample. They
      explain this neuron and not the target.

    Maps are what Captum returns, in float32. Those of a layer with positions are brought to (N, C, *spatial).

    For LRP and LayerLRP, layers for which Captum has no rule get one. It is the epsilon rule for layers that reshape,
    convolve or pool, and the identity rule for norms and activations, as Captum's documentation advises for batch norm.

    Random numbers are drawn from the same seed in each call. During the call, in-place layers work out of place.
    Gradients of a float16 model are not scaled.

    Raises:
        ValueError: If Captum is not installed, has no such class, or its ``attribute`` explains no class of a model; or
            if it cannot explain this model, for instance because the model calls a layer twice.
    """
    cls = _captum_class(name.removeprefix(PREFIX))

    def run(
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        forward: Forward | None = None,
        chunk_size: int | None = None,
        **arguments: Any,
    ) -> Tensor:
        check_targets(images, targets)
        if targets.ndim > 1:
            raise ValueError(
                f"Expected one class for each image, got pairs of classes. {name} cannot explain the difference of "
                "two classes: pass `targets` of shape (N,)."
            )
        with undisturbed(model), seeded(), out_of_place(model), warnings.catch_warnings(), ExitStack() as stack:
            if images.is_floating_point() and is_a(cls, *_OF_GRADIENTS):
                first_input = model_input(model, images[:1]).clone().requires_grad_()
                _, guard = uncut_graph(forward_of(model, forward), first_input, targets[:1])
                stack.enter_context(guard or nullcontext())
            warnings.filterwarnings("ignore", module=r"captum\.")  # about hooks and flags, which it also removes
            return check_finite(name, _attribution_maps(cls, model, images, targets, forward, chunk_size, arguments))

    in_attribute = inspect.signature(cls.attribute).parameters
    names = [name for name in inspect.signature(cls).parameters | in_attribute if name not in _OURS]
    required = ["neuron_selector"] if "neuron_selector" in in_attribute else []
    # NoiseTunnel passes unknown arguments to the method that it smooths.
    return with_arguments(run, names, required=required, takes_any=cls.__name__ == "NoiseTunnel")


def _captum_class(name: str) -> Any:
    with installed("Captum", PREFIX + name, "captum"):
        from captum import attr
    cls = getattr(attr, name, None)
    reason = _obstacle(cls, attr.Attribution)
    if reason is not None:
        raise ValueError(
            f"Expected `{PREFIX}<Class>` to name a class of captum.attr with attribute(inputs, target=...), got "
            f"{name!r}: {reason}. Choose another, such as Occlusion or DeepLift."
        )
    return cls


def _obstacle(cls: Any, base: type) -> str | None:
    """Return why something in captum.attr cannot be used as a method, or None if it can."""
    if not inspect.isclass(cls) or not issubclass(cls, base):
        return "it is no attribution class"
    parameters = inspect.signature(cls.attribute).parameters if hasattr(cls, "attribute") else {}
    if "inputs" not in parameters:
        return "its `attribute` takes no inputs"
    if cls.__name__ in _UNUSABLE:
        return _UNUSABLE[cls.__name__]
    if cls.__name__ != "NoiseTunnel" and not {"target", "neuron_selector"} & set(parameters):
        return "its `attribute` takes no target"
    return None


def _attribution_maps(
    cls: Any,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    forward: Forward | None,
    chunk_size: int | None,
    arguments: dict[str, Any],
) -> Tensor:
    """Return the maps of a class of Captum, from as many calls as the batch has parts."""
    x = model_input(model, images)
    settings = {key: _captum_argument(value, x) for key, value in arguments.items() if value is not None}
    names = _layers_to_explain(cls, model, x, settings, forward)
    if is_a(cls, "LRP"):  # and LayerLRP
        names = tuple(layer_with_rule(model, x, name, forward=forward) for name in names)
        give_rules(cls, model, x, forward=forward)
    if is_a(cls, "ModifiedReluGradientAttribution", "GuidedGradCam"):
        check_relu_modules(f"{PREFIX}{cls.__name__}", model, x, forward=forward)
    attribution = _instance(cls, LogitsModule(unwrap(model), forward_of(model, forward)), model, settings, names)
    size = len(x) if cls.__name__ in _WHOLE_BATCH else chunk_size or _AT_ONCE
    parts = []
    for rows in torch.split(torch.arange(len(x), device=x.device), size):
        images_of_part = x[rows].requires_grad_(x.is_floating_point())
        call_arguments = _call_arguments(cls, settings, targets, rows)
        with check_called_once(cls, model, images_of_part, forward=forward):
            results = attribution.attribute(images_of_part, **call_arguments)
        if call_arguments.get("return_convergence_delta"):
            results, excess = results
            check_sums(cls, results, excess)
        parts.append([_maps_of(cls, result, len(rows)) for result in (results if len(names) > 1 else [results])])
    maps = [torch.cat(layer_maps) for layer_maps in zip(*parts, strict=True)]
    if x.ndim > 2 and is_a(cls, "LayerAttribution"):
        maps = [
            arrangement(model, x, name, forward=forward)(layer_maps)
            for name, layer_maps in zip(names, maps, strict=True)
        ]
    return _sum_over_layers(names, maps)


def _call_arguments(cls: Any, settings: dict[str, Any], targets: Tensor, rows: Tensor) -> dict[str, Any]:
    """Return the arguments of ``attribute`` besides the images, for these rows of the batch."""
    constructor = inspect.signature(cls).parameters
    arguments = {
        key: value[rows] if _one_for_each(cls, key, value, len(targets)) else value
        for key, value in settings.items()
        if key not in constructor
    }
    if cls.__name__ == "NoiseTunnel" or "target" in inspect.signature(cls.attribute).parameters:
        arguments["target"] = targets[rows]
    if is_a(cls, "DeepLift"):
        arguments["return_convergence_delta"] = True
    return arguments


def _layer_names(cls: Any, layers: Any) -> tuple[str, ...]:
    """Return the names as a tuple: none, one, or several if the class takes several layers."""
    names = (layers,) if isinstance(layers, str) else tuple(layers or ())
    if not all(isinstance(name, str) for name in names) or (len(names) > 1 and cls.__name__ not in _SEVERAL_LAYERS):
        hint = f"; {', '.join(_SEVERAL_LAYERS)} take several" if cls.__name__ not in _SEVERAL_LAYERS else ""
        raise ValueError(
            f"Expected `layer` of {cls.__name__} to be the dotted name of a layer, got {layers!r}. Pass one name{hint}."
        )
    return names


def _layers_to_explain(
    cls: Any, model: nn.Module, x: Tensor, settings: dict[str, Any], forward: Forward | None
) -> tuple[str, ...]:
    """Return the names of the layers that the class explains: those that the user named, or one that fits the input."""
    if "layer" not in inspect.signature(cls).parameters:
        return ()
    find = find_target_layer if x.is_floating_point() else find_embedding
    return _layer_names(cls, settings.pop("layer", None)) or (find(model, x, forward=forward),)


def _sum_over_layers(names: tuple[str, ...], maps: list[Tensor]) -> Tensor:
    """Return the sum of the layers' maps: the contributions of independent layers add up."""
    if len({layer_maps.shape for layer_maps in maps}) > 1:
        shapes = ", ".join(f"{name} {tuple(layer_maps.shape)}" for name, layer_maps in zip(names, maps, strict=True))
        raise ValueError(
            f"Expected the maps of the layers to have the same shape, because they are added up, got {shapes}. "
            "Name layers whose outputs have equal shapes."
        )
    return torch.stack(maps).sum(dim=0) if len(maps) > 1 else maps[0]


def _captum_argument(value: Any, x: Tensor) -> Any:
    """Return an argument in Captum's form: tensors on the device of the images, and tuples instead of YAML's lists."""
    if isinstance(value, Tensor):
        return value.to(x.device)
    return tuple(_captum_argument(part, x) for part in value) if isinstance(value, (list, tuple)) else value


def _instance(cls: Any, logits: nn.Module, model: nn.Module, settings: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Return an instance of the class, made with those of the settings that its constructor takes."""
    init_arguments = {key: value for key, value in settings.items() if key in inspect.signature(cls).parameters}
    if names:
        layers = [module_named(model, name, argument="layer") for name in names]
        init_arguments["layer"] = layers if len(layers) > 1 else layers[0]
    if cls.__name__ != "NoiseTunnel":
        return cls(logits, **init_arguments)
    inner_method = init_arguments.get("attribution_method", "Saliency")
    return cls(_captum_class(inner_method)(logits)) if isinstance(inner_method, str) else cls(inner_method)


def _one_for_each(cls: Any, key: str, value: Any, images: int) -> bool:
    """Return whether an argument has one entry for each image, and is divided like the images."""
    if key == "baselines" and cls.__name__ in _DISTRIBUTION:
        return False
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == images > 1


def _maps_of(cls: Any, result: Any, images: int) -> Tensor:
    """Return the maps in the result of ``attribute``, detached, or raise a ValueError if there is not one per image."""
    if isinstance(result, tuple) and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor) or len(result) != images:
        kind = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise ValueError(
            f"Expected captum's {cls.__name__} to give one map for each of {images} images, got {kind}. "
            "See its documentation for arguments that change what it returns."
        )
    return result.detach()
