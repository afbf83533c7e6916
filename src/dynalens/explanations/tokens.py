"""Explain tokens, integers (N, T): what is defined for them, padding, and the vocabulary."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from dynalens.attribution import TOKEN_METHODS, Method, blind_to_tokens
from dynalens.capture import MASK
from dynalens.faithfulness import METRICS_OF_MAPS, METRICS_OF_REGIONS, METRICS_UNDER_NOISE
from dynalens.observation import is_tokens

_ADVICE = (
    f"Pass methods among {', '.join(TOKEN_METHODS)} and captum:<Class>, such as captum:LayerIntegratedGradients. As "
    "`baseline` pass the id of the mask token or of the token of unknown words, or leave the curves out: `metrics=()`."
)


def check_inputs(
    inputs: Tensor,
    methods: Sequence[Method],
    metrics: Sequence[str],
    baseline: Any,
    *,
    strict: bool = True,
    optional: Collection[str] = (),
) -> None:
    """Raise a ValueError if inputs are tokens and a method, a metric or the baseline is not defined for tokens.

    Args:
        inputs: Of the samples.
        methods: Names of maps, or callables.
        metrics: Names of metrics.
        baseline: What replaces tokens in curves: a token, or a word that stands for a kind of picture.
        strict: Whether all methods and metrics must be defined that are not optional. If not, one of the methods must.
        optional: Names of methods and metrics that nobody asked for.
    """
    blind_methods, blind_metrics = _undefined(inputs, methods, metrics, baseline)
    wishes = [name for name in blind_methods + blind_metrics if name not in optional]
    if len(blind_methods) == len(methods) or (strict and wishes):
        baselines = [repr(baseline)] if isinstance(baseline, str) and _curves(wishes) - {*methods} else []
        names = [*(name for name in wishes if name in methods or _masks_pixels(name)), *baselines]
        raise ValueError(
            f"Expected `methods`, `metrics` and `baseline` that are defined for tokens, {tuple(inputs.shape)}, "
            f"{inputs.dtype}, got {', '.join(names)}. {_ADVICE}"
        )


def defined(
    inputs: Tensor, methods: Sequence[Method], metrics: Sequence[str], baseline: Any, optional: Collection[str]
) -> tuple[Sequence[Method], Sequence[str], str]:
    """Return the methods and the metrics that are defined for these inputs, and a notice if a wish is left out."""
    blind_methods, blind_metrics = _undefined(inputs, methods, metrics, baseline)
    wishes = [name for name in blind_methods + blind_metrics if name not in optional]
    notice = (
        f"Left out of the explanations, training goes on: {', '.join(wishes)}. The inputs are tokens, "
        f"{tuple(inputs.shape)}, {inputs.dtype}, for which these methods and metrics are not defined. {_ADVICE}"
    )
    usable_methods = [method for method in methods if method not in blind_methods]
    return usable_methods, [name for name in metrics if name not in blind_metrics], notice if wishes else ""


def _undefined(
    inputs: Tensor, methods: Sequence[Method], metrics: Sequence[str], baseline: Any
) -> tuple[list[str], list[str]]:
    """Return the methods and the metrics that are not defined for these inputs: none, unless they are tokens."""
    if not is_tokens(inputs):
        return [], []
    blind_methods = blind_to_tokens(method for method in methods if isinstance(method, str))
    curves = _curves(metrics) if isinstance(baseline, str) else set()
    return blind_methods, [name for name in metrics if _masks_pixels(name) or name in curves]


def _masks_pixels(metric: str) -> bool:
    return metric.startswith("average_") or metric in METRICS_UNDER_NOISE


def _curves(metrics: Sequence[str]) -> set[str]:
    """Return the metrics that replace parts of the input by the baseline."""
    return set(metrics) - {*METRICS_OF_MAPS, *METRICS_OF_REGIONS}


def with_mask(forward: Callable[..., Any], tokens: Tensor, padding: int | None) -> Callable[[Tensor], Any]:
    """Return a forward function that does not attend to padding, if the network takes a mask.

    Without the mask with which a network is trained, it would compute other logits.

    Args:
        forward: Of the network.
        tokens: The explained tokens. A single sample keeps its mask, even if its tokens are replaced.
        padding: The token that pads sequences; None if it is not known.
    """
    if padding is None or not is_tokens(tokens) or not _takes_mask(forward):
        return forward
    is_token = tokens != padding if len(tokens) == 1 else None

    def logits_with_mask(ids: Tensor) -> Any:
        attended = ids != padding if is_token is None else is_token.expand(len(ids), -1)
        return forward(ids, **{MASK: attended.long()})

    return logits_with_mask


def _takes_mask(forward: Callable[..., Any]) -> bool:
    try:
        return MASK in inspect.signature(getattr(forward, "forward", forward)).parameters
    except (TypeError, ValueError):  # it has no signature, as a scripted module
        return False


def check_in_vocabulary(model: nn.Module, baseline: Any) -> None:
    """Raise a ValueError if the baseline token has no embedding. On a GPU, looking it up would end the process."""
    sizes = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    if isinstance(baseline, int) and sizes and not 0 <= baseline < max(sizes):
        raise ValueError(
            f"Expected `baseline` to be a token in [0, {max(sizes)}), got {baseline}. Pass an id of the vocabulary."
        )
