"""Relevance by LXT's rules: parity with LXT itself, restoring of classes, and models that the rules do not fit."""

import importlib.util
import sys
import types
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.attribution import check_methods, explain

HAVE = all(importlib.util.find_spec(name) is not None for name in ("torchvision", "lxt"))
needs_lxt = pytest.mark.skipif(not HAVE, reason="lxt and torchvision are not installed")
Y = torch.tensor([0, 2])


def maps_of(model: nn.Module, x: Tensor, name: str) -> Tensor:
    return explain(model, x, Y, methods=name).maps[name]


class Norm(nn.Module):
    """Divides by the root mean square, through which LXT lets no gradient pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(dim=-1, keepdim=True).sqrt()


def detached(self: Norm, x: Tensor) -> Tensor:
    return x / x.square().mean(dim=-1, keepdim=True).sqrt().detach()


def doubled(self: Norm, x: Tensor) -> Tensor:
    return 2 * detached(self, x)


def patch_method(function: Any, target: Any) -> bool:
    if target.forward is function:
        return False
    target.original_forward, target.forward = target.forward, function
    return True


def replace_module(other: Any, target: Any) -> bool:
    return bool(other and target)


def patch_attention(target: Any) -> bool:
    target.ALL_ATTENTION_FUNCTIONS["eager"] = "patched"
    return True


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package with the names of LXT's, whose only family is this file's, and what it patches."""
    attention = types.ModuleType("attention")
    attention.ALL_ATTENTION_FUNCTIONS = {"eager": "as it is"}  # type: ignore[attr-defined]  # of transformers' modules
    family, models = types.ModuleType("family"), types.ModuleType("lxt.efficient.models")
    family.attnLRP = {Norm: partial(patch_method, detached), attention: patch_attention}  # type: ignore[attr-defined]  # as LXT's
    models.family, models.DEFAULT_MAP = family, {sys.modules[__name__]: family.attnLRP}  # type: ignore[attr-defined]  # as LXT's
    for name, module in {"lxt": types.ModuleType("lxt"), "lxt.efficient": models, models.__name__: models}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(rules=family.attnLRP, attention=attention)


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), Norm(), nn.Linear(4, 3, bias=False))


def rows() -> Tensor:
    return torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]], [[[2.0, 2.0], [-1.0, 0.5]]]])


@pytest.mark.usefixtures("library")
def test_relevance_of_a_normalised_linear_model_is_its_terms_and_adds_up_to_the_logit() -> None:
    model, x = net(), rows()
    flat = x.flatten(1)
    weight = model.get_parameter("2.weight").detach()[Y]
    expected = (weight * flat / flat.square().mean(1, keepdim=True).sqrt()).view_as(x)
    torch.testing.assert_close(maps_of(model, x, "lxt:attnLRP"), expected)
    torch.testing.assert_close(expected.flatten(1).sum(1), model(x).gather(1, Y[:, None])[:, 0])


def test_classes_are_as_they_were_after_a_map_and_after_an_error(library: Any) -> None:
    before, attention = dict(vars(Norm)), library.attention.ALL_ATTENTION_FUNCTIONS
    maps_of(net(), rows(), "lxt:attnLRP")
    library.rules[Norm] = partial(patch_method, doubled)
    with pytest.raises(ValueError, match="Expected the rules of lxt:attnLRP to leave the logits as they are"):
        maps_of(net(), rows(), "lxt:attnLRP")
    assert dict(vars(Norm)) == before
    assert library.attention.ALL_ATTENTION_FUNCTIONS is attention
    assert attention == {"eager": "as it is"}


def test_models_without_rules_are_refused(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Expected `lxt:<map>` to be 'attnLRP' or 'cp_LRP', got 'LRP'"):
        check_methods("lxt:LRP")
    with pytest.raises(ValueError, match=r"parts of one of \S*test_attribution_lxt for lxt:attnLRP, got parts of 0"):
        maps_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), rows(), "lxt:attnLRP")
    with pytest.raises(ValueError, match="got family, which has no such rules"):
        maps_of(net(), rows(), "lxt:cp_LRP")
    with monkeypatch.context() as patching:
        patching.setattr(Norm, "forward", detached)
        with pytest.raises(ValueError, match=r"Expected Norm to be as its library defines it .* patched already"):
            maps_of(net(), rows(), "lxt:attnLRP")
    library.rules[library.attention] = partial(replace_module, library.attention)
    with pytest.raises(ValueError, match="LXT applies before a model is made"):
        maps_of(net(), rows(), "lxt:attnLRP")


def test_the_error_says_what_to_install_where_lxt_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lxt", None)
    with pytest.raises(ValueError, match=r"Expected LXT to be installed .*`pip install lxt torchvision 'transfor"):
        check_methods("lxt:attnLRP")


def patch_for_this_test(monkeypatch: pytest.MonkeyPatch, module: Any, rules: Any) -> None:
    """LXT's own patch, which it never takes back, taken back at the end of the test."""
    from lxt.efficient import monkey_patch

    for target in rules:
        for name in ("forward", "eager_attention_forward", "ALL_ATTENTION_FUNCTIONS", "original_forward"):
            if name == "original_forward" or hasattr(target, name):
                monkeypatch.setattr(target, name, getattr(target, name, None), raising=False)
    if hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
        module.ALL_ATTENTION_FUNCTIONS = dict(module.ALL_ATTENTION_FUNCTIONS)
    monkey_patch(module, rules)


@pytest.mark.architectures
@needs_lxt
def test_maps_of_a_vision_transformer_are_those_of_lxt(monkeypatch: pytest.MonkeyPatch) -> None:
    from lxt.efficient.models import vit_torch
    from torchvision.models import vision_transformer

    torch.manual_seed(0)
    model = vision_transformer.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    x = torch.randn(2, 3, 16, 16)
    logits, ours = model(x), maps_of(model, x, "lxt:cp_LRP")
    torch.testing.assert_close(model(x), logits, rtol=0, atol=0)
    patch_for_this_test(monkeypatch, vision_transformer, vit_torch.cp_LRP)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).gather(1, Y[:, None]).sum(), x)
    torch.testing.assert_close(ours, x.detach() * gradient)


@pytest.mark.architectures
@needs_lxt
@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("name", ["attnLRP", "cp_LRP"])
def test_maps_of_a_language_model_are_those_of_lxt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lxt.efficient.models import gpt2
    from transformers import GPT2Config, GPT2ForSequenceClassification
    from transformers.models.gpt2 import modeling_gpt2

    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=3, pad_token_id=0)).eval()
    tokens = torch.randint(1, 20, (2, 6))
    ours = maps_of(model, tokens, f"lxt:{name}")
    patch_for_this_test(monkeypatch, modeling_gpt2, getattr(gpt2, name))
    embedded = model.transformer.wte(tokens).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    (gradient,) = torch.autograd.grad(logits.gather(1, Y[:, None]).sum(), embedded)
    torch.testing.assert_close(ours, embedded.detach() * gradient)
