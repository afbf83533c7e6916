"""The methods by name, and the check of what a user asks of them."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dynalens.attribution.backpropagation import deconvolution, guided_backprop, guided_grad_cam, rect_grad
from dynalens.attribution.cam import CAM_FORMULAS, grad_cam, grad_cam_plus_plus, layer_cam
from dynalens.attribution.captum import PREFIX, captum_method
from dynalens.attribution.gradient_free_cam import ablation_cam, score_cam
from dynalens.attribution.gradients import (
    input_x_gradient,
    integrated_gradients,
    interior_gradient,
    saliency,
    smooth_grad,
)
from dynalens.attribution.lxt import LXT_PREFIX, lxt_method
from dynalens.attribution.passes import Formula
from dynalens.attribution.rollout import attention_rollout, gradient_rollout, transition_attention
from dynalens.attribution.zennit import ZENNIT_PREFIX, zennit_method
from dynalens.paths import resolved

Function = Callable[..., Tensor]
Method = str | Callable[[nn.Module, Tensor, Tensor], Tensor]
MethodArgs = Mapping[str, Mapping[str, Any]]

BUILT_IN: dict[str, Function] = {
    function.__name__: function
    for function in (
        saliency, input_x_gradient, smooth_grad, integrated_gradients, interior_gradient, grad_cam, grad_cam_plus_plus,
        layer_cam, score_cam, ablation_cam, guided_backprop, deconvolution, rect_grad, guided_grad_cam,
        attention_rollout, gradient_rollout, transition_attention,
    )
}  # fmt: skip
CLASSLESS = ("attention_rollout",)
ONE_PASS: dict[str, Formula] = {
    "saliency": lambda layer_pass: layer_pass.x_gradient,
    "input_x_gradient": lambda layer_pass: layer_pass.x * layer_pass.x_gradient,
    **CAM_FORMULAS,
}
"""Methods that share one forward and one backward pass, unless they have arguments of their own."""

TOKEN_METHODS = tuple(name for name, function in BUILT_IN.items() if "at" in inspect.signature(function).parameters)
"""Built-in methods that explain the output of a layer, such as the embedding of tokens, as well as the input."""

ADAPTED: dict[str, Callable[[str], Function]] = {
    PREFIX: captum_method,
    ZENNIT_PREFIX: zennit_method,
    LXT_PREFIX: lxt_method,
}
"""For each prefix of a name, what returns the function of a method that another library computes."""

_PASSED = ("model", "images", "targets", "forward")  # arguments that `explain` passes to every method


def check_methods(methods: Sequence[Method] | Method, method_args: MethodArgs | None = None) -> dict[str, Function]:
    """Return the function of each method by its name, in the order of ``methods``.

    Args:
        methods: Names of built-in methods, "captum:<Class>", "zennit:<Composite>", "lxt:<map>", or callables
            (model, images, targets) -> maps or the dotted paths of such, which go by their ``__name__``.
        method_args: For the name of a method, arguments of its function.

    Raises:
        ValueError: If a name is unknown or comes twice, or a method does not take an argument. The message lists the
            names or arguments that there are.
    """
    method_list = resolved_methods(methods)
    names = [method if isinstance(method, str) else _name_of(method) for method in method_list]
    unknown_names = [m for m in method_list if isinstance(m, str) and m not in BUILT_IN and not is_adapted(m)]
    if unknown_names or not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected `methods` to be among {', '.join(BUILT_IN)}, {PREFIX}<Class>, {ZENNIT_PREFIX}<Composite>, "
            f"{LXT_PREFIX}<map>, callables and dotted paths of callables that can be imported, each once, got "
            f"{unknown_names or names or 'none'}. Name one or more of them."
        )
    functions = {name: _function(method) for name, method in zip(names, method_list, strict=True)}
    _check_arguments(functions, method_args or {})
    return functions


def resolved_methods(methods: Sequence[Method] | Method) -> tuple[Method, ...]:
    """Return the methods as a tuple, in which each dotted path is replaced by the callable that it names."""
    entries = (methods,) if isinstance(methods, str) or callable(methods) else methods
    return tuple(method if isinstance(method, str) and is_adapted(method) else resolved(method) for method in entries)


def takes(function: Function, argument: str) -> bool:
    """Return whether a method's function has this argument."""
    return argument in inspect.signature(function).parameters


def explains_outputs(name: str) -> bool:
    """Return whether the method of this name explains the output of a layer, ``at=``, as well as the input."""
    return name in TOKEN_METHODS or name.startswith(LXT_PREFIX)


def blind_to_tokens(names: Iterable[str]) -> list[str]:
    """Return the names of built-in methods that cannot explain tokens."""
    return [name for name in names if name in BUILT_IN and name not in TOKEN_METHODS]


def _name_of(method: Any) -> str:
    return str(
        getattr(method, "__name__", None) or getattr(getattr(method, "func", method), "__name__", type(method).__name__)
    )


def _examples(keys: Sequence[str]) -> str:
    examples = {
        "neuron_selector": '"neuron_selector": 0, the index of a neuron in the output of `layer`',
        "low": '"low": -2.5, the lowest value that an input has',
        "high": '"high": 2.5, the highest one',
    }
    return ", ".join(examples.get(key, f'"{key}": ...') for key in keys)


def is_adapted(name: str) -> bool:
    """Return whether another library computes the method of this name."""
    return name.startswith(tuple(ADAPTED))


def _function(method: Method) -> Function:
    if not isinstance(method, str):
        return method
    if method in BUILT_IN:
        return BUILT_IN[method]
    return next(adapt for prefix, adapt in ADAPTED.items() if method.startswith(prefix))(method)


def _check_arguments(methods: dict[str, Function], method_args: MethodArgs) -> None:
    """Raise a ValueError if a method lacks an argument that it needs, or has one that it does not take."""
    foreign_names = [name for name in method_args if name not in methods]
    if foreign_names:
        raise ValueError(
            f"Expected `method_args` to have entries for {', '.join(methods)} only, got "
            f"{', '.join(foreign_names)}. Leave out the entries of methods that are not used."
        )
    for name, function in methods.items():
        missing_keys = [key for key in getattr(function, "required", ()) if key not in method_args.get(name, {})]
        if missing_keys:
            raise ValueError(
                f"Expected `method_args` of {name} to have {', '.join(missing_keys)}, got none. Pass "
                f'`method_args={{"{name}": {{{_examples(missing_keys)}}}}}`.'
            )
    for name, arguments in method_args.items():
        parameters = inspect.signature(methods[name]).parameters
        names = [key for key in parameters if key not in _PASSED]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown_keys = [key for key in arguments if key not in names]
        if unknown_keys and not takes_any:
            raise ValueError(
                f"Expected `method_args` of {name} to be among {', '.join(names) or 'none'}, got "
                f"{', '.join(unknown_keys)}. See the documentation of the method."
            )
