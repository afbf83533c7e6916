"""Explain tokens, integers (N, T): what is defined for them, padding, and the vocabulary."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dynalens.attribution import TOKEN_METHODS, Method, blind_to_tokens
from dynalens.capture import MASK
from dynalens.faithfulness import METRICS_OF_MAPS, METRICS_OF_REGIONS, METRICS_UNDER_NOISE
from dynalens.observation import is_tokens
from dynalens.robustness import check_robust_inputs


def check_inputs(
    inputs: Tensor, *, methods: Sequence[Method], metrics: Sequence[str], baseline: Any, robustness: Sequence[str] = ()
) -> None:
    """Raise a ValueError if inputs are tokens and a method, a metric or the baseline is not defined for tokens.

    Checks of robustness are refused for rows of a table as well, if they are not defined for them.
    """
    check_robust_inputs(inputs, robustness)
    if not is_tokens(inputs):
        return
    blind = blind_to_tokens(method for method in methods if isinstance(method, str))
    masking_metrics = [name for name in metrics if name.startswith("average_") or name in METRICS_UNDER_NOISE]
    curves = set(metrics) - {*METRICS_OF_MAPS, *METRICS_OF_REGIONS}
    baselines = [repr(baseline)] if isinstance(baseline, str) and curves else []
    if blind or masking_metrics or baselines:
        raise ValueError(
            f"Expected `methods`, `metrics` and `baseline` that are defined for tokens, {tuple(inputs.shape)}, "
            f"{inputs.dtype}, got {', '.join([*blind, *masking_metrics, *baselines])}. Pass methods among "
            f"{', '.join(TOKEN_METHODS)} and captum:<Class>, such as captum:LayerIntegratedGradients. As `baseline` "
            "pass the id of the mask token or of the token of unknown words, or leave the curves out: `metrics=()`."
        )


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
