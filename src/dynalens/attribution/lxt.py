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
"""Largest difference of logits that counts as rounding, as a fraction of the largest logit. LXT computes a layer norm
over the last dimension only. If the model's norm is over several, the difference is far larger."""


def lxt_method(name: str) -> Callable[..., Tensor]:
    """Return the method ``lxt:<map>`` as a function (model, images, targets, *, forward, at, chunk_size) -> maps.

    LXT replaces the forward pass of attention, normalisation and activations by one that has other gradients. With
    these gradients, input times gradient is the relevance by LXT's rules. "attnLRP" has the rules of Achtibat et al.,
    "AttnLRP", ICML 2024. "cp_LRP" has those of Ali et al., "XAI for Transformers", ICML 2022, which send no relevance
    to queries and keys.

    LXT changes classes, such as ``torch.nn.LayerNorm``, and so all models of the process. The changes are undone when
    the map is computed. A map costs one forward and one backward pass, and two forward passes of one image, whose
    logits with and without the rules are compared.

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
                x, run_model = model_input(model, images[:1]), forward_of(model, forward)
                logits_before = as_logits(run_model(x), targets[:1])
            with _rules_in_place(name, rules):
                with torch.no_grad():
                    logits_after = as_logits(run_model(x), targets[:1])
                _check_logits(name, logits_before, logits_after)
                maps = input_x_gradient(model, images, targets, forward=forward, at=at, chunk_size=chunk_size)
        return check_finite(name, maps)

    return run


def _families(name: str) -> dict[str, ModuleType]:
    """Return for each Python module whose classes LXT has rules for, LXT's module with these rules."""
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
    """Return LXT's rules for the family of transformers that the model belongs to: patches of classes and modules."""
    sources = {type(module).__module__ for module in unwrap(model).modules()}
    parts = [part for source, part in families.items() if source in sources]
    if len(parts) != 1 or not hasattr(parts[0], map_name):
        kind = f"{parts[0].__name__}, which has no such rules" if len(parts) == 1 else f"parts of {len(parts)} of them"
        raise ValueError(
            f"Expected the model to have parts of one of {', '.join(families)} for {name}, got {kind}. Use "
            "integrated_gradients or gradient_rollout."
        )
    rules: Mapping[Any, Any] = getattr(parts[0], map_name)
    if any(getattr(patch, "func", patch).__name__ == "replace_module" for patch in rules.values()):
        # Such rules replace classes. A model that exists already is made of the original ones.
        raise ValueError(
            f"Expected rules of LXT that can be applied to an existing model, got those of {parts[0].__name__}, which "
            "LXT applies before a model is made. Use integrated_gradients or gradient_rollout."
        )
    return rules


@contextmanager
def _rules_in_place(name: str, rules: Mapping[Any, Callable[[Any], bool]]) -> Iterator[None]:
    """Apply LXT's rules to the classes in the body of the ``with``. Afterwards undo them, also after an error."""
    originals = [(target, dict(vars(target))) for target in rules]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LXT warns of a class that is patched already; the error below says so
            for target, patch in rules.items():
                if isinstance(getattr(target, "ALL_ATTENTION_FUNCTIONS", None), Mapping):
                    # cp_LRP would write into this object, which all of transformers shares.
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
