"""What Captum's layer-wise relevance propagation (LRP) and DeepLift ask of a model's layers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dynalens.attribution.overrides import captured_joins, modified_relu
from dynalens.attribution.passes import Forward
from dynalens.observation import captured_outputs, forward_of, module_named

# Captum passes relevance through these itself.
_ACTIVATIONS = (nn.ReLU, nn.Dropout, nn.Tanh)
_MOVING = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd, nn.PixelShuffle, nn.Upsample,
)  # fmt: skip
# Epsilon rule: what is linear or moves values. Captum has rules for some of them.
_EPSILON = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, *_MOVING)
_MOVING_NAMES = ("MaxPool", "ZeroPad", "ConstantPad")
_EPSILON_NAMES = ("Pool", "ZeroPad", "ConstantPad", "Addition_Module")
# Identity rule: what keeps the shape and works on each value, up to a scale that counts as a constant.
_IDENTITY = (
    nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU,
    nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardswish, nn.Mish, nn.Softplus, nn.Sigmoid,
)  # fmt: skip

_SMALL = 0.01  # difference of logits that counts as none
_MOST_EXCESS = 0.05  # of DeepLift's sums, relative; exact ones differ by 1e-5, those in half precision by up to 1e-2


def is_a(cls: Any, *names: str) -> bool:
    """Return whether a class of Captum, which is imported only where it is asked for, has a base of these names."""
    return any(base.__name__ in names for base in cls.__mro__)


def give_rules(cls: Any, model: nn.Module, images: Tensor, *, forward: Forward | None) -> None:
    """Give layers that Captum knows no rule for one of its rules, as an attribute that ``undisturbed`` removes.

    Raises:
        ValueError: If the forward pass runs a layer that no rule fits, or adds or multiplies outputs of layers by
            functions: Captum hands all of the relevance to each of the two.
    """
    from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule

    with captured_joins() as joins:
        layer_outputs = layers_passed(model, images, forward)
    names = {id(module): name for name, module, _ in layer_outputs}
    for layer in model.modules():
        if type(layer) in _ACTIVATIONS or hasattr(layer, "rule") or not is_leaf(layer):
            continue
        kind = _kind_of_rule(layer)
        if kind is None and id(layer) in names:
            raise _unfit(cls, f"{names[id(layer)]}: {type(layer).__name__}", "Set the attribute `rule` of this layer")
        vars(layer)["rule"] = IdentityRule() if kind == "identity" else EpsilonRule()
    additions = sum(
        type(module).__name__ == "Addition_Module" for _, module, _ in layer_outputs
    )  # has a rule for its sum
    if len(joins) > additions:
        function = Counter(joins).most_common(1)[0][0]
        raise _unfit(cls, f"the function {function} of two outputs", "Add with captum's Addition_Module")


def _unfit(cls: Any, obstacle: str, way: str) -> ValueError:
    return ValueError(
        f"Expected the model to consist of layers that captum:{cls.__name__} has a rule for, got {obstacle}. "
        f"{way}, or use captum:DeepLift or captum:IntegratedGradients."
    )


def layer_with_rule(model: nn.Module, images: Tensor, name: str, *, forward: Forward | None) -> str:
    """Return the named layer, or the last one within or before it that has a rule and gives its shape.

    An activation passes relevance on as it is, so that of its output is that of the layer before it.
    """
    layer_outputs, layer = layers_passed(model, images, forward), module_named(model, name, argument="layer")
    places = [place for place, (_, module, _) in enumerate(layer_outputs) if module is layer]
    for candidate, module, output in reversed(layer_outputs[: places[-1] + 1] if places else []):
        if is_leaf(module) and type(module) not in _ACTIVATIONS and output.shape == layer_outputs[places[-1]][2].shape:
            return candidate
    return name


@contextmanager
def check_called_once(cls: Any, model: nn.Module, images: Tensor, *, forward: Forward | None) -> Iterator[None]:
    """Say which layers are called several times where Captum fails at one of them.

    Raises:
        ValueError: In place of Captum's AssertionError or RuntimeError.
    """
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if "used more than once" not in str(error):
            raise
        calls = Counter(name for name, _, _ in layers_passed(model, images, forward))
        repeats = ", ".join(f"{name} {number} times" for name, number in calls.items() if number > 1)
        raise ValueError(
            f"Expected the model to call each of its layers once for captum:{cls.__name__}, which keeps one input and "
            f"output of each, got {repeats}. Give each call a layer of its own (`self.relu1`, `self.relu2`), or use "
            "captum:IntegratedGradients or captum:GradientShap, which need no such layers."
        ) from error


def check_sums(cls: Any, maps: Tensor, excess: Tensor) -> None:
    """Raise a ValueError if DeepLift's contributions do not add up, as where Captum has no rule for a function.

    Args:
        cls: The class.
        maps: Shape ``(N, ...)``.
        excess: Sum of each map minus the difference of the logit from that of the baseline, ``(N,)``, or
            ``(N * baselines,)``.
    """
    excess = excess.detach().view(len(maps), -1).float().mean(dim=1)
    difference = maps.detach().flatten(1).float().sum(dim=1) - excess
    share = (excess.norm() / difference.norm().clamp(min=_SMALL)).tolist()  # which warns of no graph
    if share > _MOST_EXCESS:
        raise ValueError(
            f"Expected the contributions of captum:{cls.__name__} to add up to the difference of the logit from that "
            f"of the baseline, got sums that are off by {100 * share:.0f} % of it. Captum has no rule for a function "
            "of the network, such as `F.relu`, GELU or a layer norm, and takes its gradient. Call modules that it has "
            "rules for, such as `nn.ReLU`, or use captum:IntegratedGradients."
        )


def check_relu_modules(name: str, model: nn.Module, images: Tensor, *, forward: Forward | None) -> None:
    """Raise a ValueError if the model calls a ReLU that is no module: the method would take its gradient there."""
    with modified_relu(lambda gradient, is_active, _output: gradient * is_active) as calls:
        layer_outputs = layers_passed(model, images, forward)
    number = len(calls) - sum(isinstance(module, nn.ReLU) for _, module, _ in layer_outputs)
    if number > 0:
        raise ValueError(
            f"Expected each ReLU to be a module `nn.ReLU` for {name}, which modifies these alone, got "
            f"{number} other calls, such as `F.relu`. Use guided_backprop, deconvolution or guided_grad_cam, which see "
            "them, or call modules."
        )


def layers_passed(model: nn.Module, images: Tensor, forward: Forward | None) -> list[tuple[str, nn.Module, Tensor]]:
    """Return the layers that run for the first image, in the order they finish; all tensors have a graph."""
    with captured_outputs(model) as layer_outputs:
        first_image = images[:1].detach()
        forward_of(model, forward)(first_image.requires_grad_(first_image.is_floating_point()))
    return layer_outputs


def moves_values(layer: nn.Module) -> bool:
    """Return whether a layer without parameters only moves, chooses or drops values, so its gradient is its rule."""
    return isinstance(layer, _MOVING) or any(part in type(layer).__name__ for part in _MOVING_NAMES)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module has no submodules."""
    return not any(True for _ in module.children())


def _kind_of_rule(layer: nn.Module) -> str | None:
    name = type(layer).__name__
    if isinstance(layer, _EPSILON) or any(part in name for part in _EPSILON_NAMES):
        return "epsilon"
    return "identity" if isinstance(layer, _IDENTITY) or name.endswith("RMSNorm") else None
