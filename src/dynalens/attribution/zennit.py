"""Layer-wise relevance propagation by the composites of zennit: ``zennit:EpsilonPlusFlat`` and the like."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, installed
from dynalens.attribution.adapted import with_arguments
from dynalens.attribution.overrides import captured_joins
from dynalens.attribution.passes import Forward, as_logits, check_finite, chunks, gradients, output_scores, prepared
from dynalens.attribution.relevance import check_relu_modules, is_leaf, layers_passed, moves_values
from dynalens.observation import out_of_place, unwrap

ZENNIT_PREFIX = "zennit:"
_OURS = ("self", "canonizers", "layer_map", "first_map", "name_map", "composites")
_SAME_LOGITS = 1e-3
"""Largest difference of logits that counts as rounding, as a fraction of the largest logit. Rounding of float32 is
about 1e-7 per operation. A batch norm merged into the wrong layer makes a far larger difference."""
_NO_RULES = ("DeconvNet", "GuidedBackprop", "BetaSmooth")
"""Composites that change the gradient of activations only, so that other layers need no rule."""


def zennit_method(name: str) -> Callable[..., Tensor]:
    """Return the function of ``zennit:<Composite>``: (model, images, targets, *, forward, ...) -> maps.

    The relevance of the target's logit is propagated to the images by the composite's rules, as Montavon et al.,
    "Layer-Wise Relevance Propagation: An Overview", 2019, describe them. The further arguments are those of the
    composite, such as ``epsilon``, and ``canonizers``, names of classes in ``zennit.canonizers`` or
    ``zennit.torchvision`` that bring the model into the form that the rules are made for. By default batch norm is
    merged into the layer before it, and shortcuts of torchvision's residual blocks get a sum with a rule.

    Raises:
        ValueError: If zennit is not installed, has no such composite, or its rules do not fit the model: it runs a
            layer without a rule, calls one with a rule twice, or adds outputs by functions, so that relevance would be
            counted twice.
    """
    composite = _composite(name.removeprefix(ZENNIT_PREFIX))

    def run(
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        forward: Forward | None = None,
        chunk_size: int | None = None,
        canonizers: Sequence[str] | str | None = None,
        **arguments: Any,
    ) -> Tensor:
        inner = unwrap(model)
        guard = prepared(model, images, targets, forward=forward, chunk_size=chunk_size)
        with guard as (run_model, x), out_of_place(model):
            rules = _composite_object(composite, _canonizers(inner, canonizers), arguments, x)
            with _rules_in_place(name, rules, inner, x, targets, run_model):
                parts = chunks(x, targets, chunk_size)
                maps = torch.cat([_relevance(run_model, x_part, y_part) for x_part, y_part in parts])
        return check_finite(name, maps)

    parameters = inspect.signature(composite).parameters
    names = [name for name in parameters if name not in _OURS]
    required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    return with_arguments(run, ["canonizers", *names], required=required)


def _composite(name: str) -> Any:
    with installed("zennit", ZENNIT_PREFIX + name, "zennit"):
        from zennit import composites
    names = sorted(composite.__name__ for composite in composites.COMPOSITES.values())
    check_choice(f"{ZENNIT_PREFIX}<Composite>", name, names)
    return getattr(composites, name)


def _canonizers(model: nn.Module, names: Sequence[str] | str | None) -> list[Any]:
    """Return objects of the canonizers with these names, or of those that fit the model."""
    from zennit import canonizers, torchvision

    if names is None:
        blocks = (torchvision.ResNetBasicBlock, torchvision.ResNetBottleneck)
        residual = any(isinstance(module, blocks) for module in model.modules())
        return [torchvision.ResNetCanonizer() if residual else canonizers.SequentialMergeBatchNorm()]
    name_list = [names] if isinstance(names, str) else list(names)
    classes = [getattr(canonizers, name, None) or getattr(torchvision, name, None) for name in name_list]
    if None in classes:
        raise ValueError(
            f"Expected `canonizers` to name classes of zennit.canonizers or zennit.torchvision, got {name_list}. "
            "Pass for instance 'ResNetCanonizer'."
        )
    return [cls() for cls in classes if cls is not None]


def _composite_object(composite: Any, canonizers: list[Any], arguments: dict[str, Any], x: Tensor) -> Any:
    """Return an object of the composite's class; the numbers ``low`` and ``high`` become images of one value."""
    bounds = {
        key: torch.as_tensor(arguments[key]).to(x).expand_as(x[:1]) for key in ("low", "high") if key in arguments
    }
    return composite(canonizers=canonizers, **(arguments | bounds))


@contextmanager
def _rules_in_place(
    name: str, composite: Any, model: nn.Module, x: Tensor, targets: Tensor, logits: Forward
) -> Iterator[None]:
    """Check that the composite's rules fit the model, and apply them to it in the body of the ``with``.

    Raises:
        ValueError: If a layer has no rule, relevance would be lost or counted twice, or canonizers change the logits.
    """
    logits_before = as_logits(logits(x[:1]), targets[:1]).detach()
    handles = [canonizer for canonizer_type in composite.canonizers for canonizer in canonizer_type.apply(model)]
    try:
        with captured_joins() as joins:
            layer_outputs = layers_passed(model, x, logits)
        if name.removeprefix(ZENNIT_PREFIX) not in _NO_RULES:
            _check_rules(name, composite, layer_outputs, joins)
        else:
            check_relu_modules(name, model, x, forward=logits)
        logits_after = as_logits(logits(x[:1]), targets[:1]).detach()
        if not torch.allclose(
            logits_before, logits_after, rtol=_SAME_LOGITS, atol=_SAME_LOGITS * float(logits_before.abs().max())
        ):
            raise ValueError(
                f"Expected the canonizers of {name} to leave the logits as they are, got a difference of "
                f"{float((logits_before - logits_after).abs().max()):.3g}: they merge a batch norm with a layer "
                f"that it does not follow. Pass `method_args={{'{name}': {{'canonizers': []}}}}`."
            )
    finally:
        for handle in reversed(handles):
            handle.remove()
    with composite.context(model):
        yield


def _check_rules(
    name: str, composite: Any, layer_outputs: Sequence[tuple[str, nn.Module, Tensor]], joins: Sequence[str]
) -> None:
    """Raise a ValueError if a layer has no rule, one with a rule is called twice, or functions join outputs."""
    context: dict[str, Any] = {}
    has_rule = {place: composite.module_map(context, place, module) is not None for place, module, _ in layer_outputs}
    leaves = [(place, module) for place, module, _ in layer_outputs if is_leaf(module)]
    bare_layers = [(place, module) for place, module in leaves if not (has_rule[place] or _needs_no_rule(module))]
    bare = [f"{place}: {type(module).__name__}" for place, module in bare_layers]
    calls = Counter(place for place, module in leaves if has_rule[place] and any(True for _ in module.parameters()))
    repeats = [f"{place}, which is called {number} times" for place, number in calls.items() if number > 1]
    functions = [f"the function {function} of two outputs" for function in joins]
    unfit = bare + repeats + functions
    if unfit:
        raise ValueError(
            f"Expected the model to consist of layers that {name} has a rule for, each called once, got {unfit[0]}. "
            "Relevance would be lost or counted twice. Pass `canonizers` that give sums a rule, as ResNetCanonizer "
            "does for torchvision's ResNets, or use integrated_gradients or captum:DeepLift."
        )


def _needs_no_rule(module: nn.Module) -> bool:
    """Return whether the ordinary gradient of a layer is its rule.

    So it is for layers that only choose or move values: ReLU, and batch norm after it was merged into another layer.
    """
    return moves_values(module) or isinstance(module, nn.ReLU | nn.modules.batchnorm._BatchNorm)


def _relevance(logits: Forward, x: Tensor, targets: Tensor) -> Tensor:
    """Return the relevance (N, C, *spatial), float32: the gradient, in which each layer's rule replaces its own."""
    leaf = x.detach().clone().requires_grad_()
    scores = output_scores(logits(leaf), targets)
    # The gradient of half the square is the logit itself: the relevance that is propagated.
    return gradients(scores.square() / 2, {"images": leaf})[0].float()
