"""Layer-wise relevance propagation for transformers by the rules of LXT: ``lxt:attnLRP`` and ``lxt:cp_LRP``."""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice
from dynalens.attribution.gradients import input_x_gradient
from dynalens.attribution.passes import Forward, as_logits, check_finite, model_input
from dynalens.observation import forward_of, undisturbed, unwrap

LXT_PREFIX = "lxt:"
_MAPS = ("attnLRP", "cp_LRP")
_SAME_LOGITS = 1e-3
"""Of the largest logit: far above the rounding of float32, far below a layer norm over several dimensions, which LXT
takes over the last one."""


def lxt_method(name: str) -> Callable[..., Tensor]:
    """Return the function of ``lxt:<map>``: (model, images, targets, *, forward, at, chunk_size) -> maps.

    LXT puts a forward pass with other gradients in place of that of attention, normalisation and activations; with it,
    input times gradient is the relevance by its rules. ``attnLRP`` are those of Achtibat et al., "AttnLRP", ICML 2024;
    ``cp_LRP`` those of Ali et al., "XAI for Transformers", ICML 2022, which leave out queries and keys. They stand on
    the classes of the process, ``torch.nn.LayerNorm`` among them, while the map is computed, and not afterwards. It
    costs one forward and one backward pass, and one image more to compare the logits.

    Raises:
        ValueError: If LXT is not installed or cannot be imported, has no such map for the model, or changes its logits.
    """
    map_name = name.removeprefix(LXT_PREFIX)
    check_choice(f"{LXT_PREFIX}<map>", map_name, _MAPS)
    families = _families(name)

    def run(
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        forward: Forward | None = None,
        at: str | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        rules = _rules(name, map_name, families, model)
        with undisturbed(model):
            with torch.no_grad():
                x, logits = model_input(model, images[:1]), forward_of(model, forward)
                logits_before = as_logits(logits(x), targets[:1])
            with _rules_in_place(name, rules):
                with torch.no_grad():
                    logits_after = as_logits(logits(x), targets[:1])
                _check_logits(name, logits_before, logits_after)
                maps = input_x_gradient(model, images, targets, forward=forward, at=at, chunk_size=chunk_size)
        return check_finite(name, maps)

    return run


def _families(name: str) -> dict[str, ModuleType]:
    """Return LXT's module of rules for each Python module with classes that it has rules for."""
    try:
        models = importlib.import_module("lxt.efficient.models")
    except ImportError as error:
        raise ValueError(
            f"Expected LXT to be installed for {name}, with torchvision and transformers below 5, got {error}. Install "
            "it: `pip install lxt torchvision 'transformers<5'`."
        ) from error
    parts = [part for part in vars(models).values() if isinstance(part, ModuleType)]
    return {
        target.__name__: part
        for target, rules in models.DEFAULT_MAP.items()
        for part in parts
        if any(getattr(part, map_name, None) is rules for map_name in _MAPS)
    }


def _rules(name: str, map_name: str, families: Mapping[str, ModuleType], model: nn.Module) -> Mapping[Any, Any]:
    """Return what LXT puts in place of what, for the family of transformers that the model has parts of."""
    sources = {type(module).__module__ for module in unwrap(model).modules()}
    parts = [part for source, part in families.items() if source in sources]
    if len(parts) != 1 or not hasattr(parts[0], map_name):
        kind = f"{parts[0].__name__}, which has no such rules" if len(parts) == 1 else f"{len(parts)} of them"
        raise ValueError(
            f"Expected the model to have parts of one of {', '.join(families)} for {name}, got {kind}. Use "
            "integrated_gradients or gradient_rollout."
        )
    rules: Mapping[Any, Any] = getattr(parts[0], map_name)
    if any(getattr(patch, "func", patch).__name__ == "replace_module" for patch in rules.values()):
        # A model that is trained has the classes of transformers already.
        raise ValueError(
            f"Expected rules of LXT that can be applied to an existing model, got those of {parts[0].__name__}, which "
            "LXT applies before a model is made. Use integrated_gradients or gradient_rollout."
        )
    return rules


@contextmanager
def _rules_in_place(name: str, rules: Mapping[Any, Callable[[Any], bool]]) -> Iterator[None]:
    """Let LXT's rules stand on the classes, and put back what was there, whatever happens."""
    originals = [(target, dict(vars(target))) for target in rules]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LXT's own, of what is patched already: raised below
            for target, patch in rules.items():
                if isinstance(getattr(target, "ALL_ATTENTION_FUNCTIONS", None), Mapping):
                    # One object for all of transformers, in which cp_LRP would write.
                    target.ALL_ATTENTION_FUNCTIONS = dict(target.ALL_ATTENTION_FUNCTIONS.items())
                if not patch(target):
                    raise ValueError(
                        f"Expected {target.__name__} to be as its library defines it for {name}, got one that was "
                        "patched already. Do not call `lxt.efficient.monkey_patch`: it also changes the gradients "
                        "of training."
                    )
        yield
    finally:
        for target, attributes in originals:
            _put_back(target, attributes)


def _put_back(target: Any, attributes: Mapping[str, Any]) -> None:
    for key, value in list(vars(target).items()):
        if key not in attributes:
            delattr(target, key)
        elif value is not attributes[key]:
            setattr(target, key, attributes[key])


def _check_logits(name: str, logits_before: Tensor, logits_after: Tensor) -> None:
    difference = float((logits_before - logits_after).abs().max())
    if not difference <= _SAME_LOGITS * max(float(logits_before.abs().max()), 1.0):
        raise ValueError(
            f"Expected the rules of {name} to leave the logits as they are, got a difference of {difference:.3g}. LXT "
            "has no rule for a layer of the model, for instance a LayerNorm over several dimensions: use "
            "integrated_gradients or gradient_rollout."
        )
