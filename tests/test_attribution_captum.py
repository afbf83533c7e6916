"""Every class that captum.attr exports works as a method, or says why not."""

import builtins
import inspect
import sys
from typing import Any

import captum.attr
import captum.attr._utils.custom_modules
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.attribution import check_methods, explain, saliency
from dynalens.attribution.captum import _SEVERAL_LAYERS
from toys import ToyTransformer
from traces import traces

Y = torch.tensor([0, 2])


def images() -> Tensor:
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Layers that are used once each, as DeepLift and LRP want them; one works in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.pool(self.act(self.conv(x))).flatten(1))
        assert isinstance(out, Tensor)
        return out


class ByFunction(Net):
    """Calls its activation as a function, so that Captum does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.pool(F.relu(self.conv(x))).flatten(1))
        assert isinstance(out, Tensor)
        return out


SQUARES = (torch.arange(6).view(6, 1) // 3 * 2 + torch.arange(6) // 3).view(1, 1, 6, 6)
ZEROS = torch.zeros(3, 1, 6, 6)
NEURON: dict[str, Any] = {"layer": "conv", "neuron_selector": [1, 2, 2]}
IMAGE, LAYER = (2, 1, 6, 6), (2, 4, 6, 6)
# The classes that work: what they must be given, and the shape of their maps.
WORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "IntegratedGradients": ({"n_steps": 4}, IMAGE),
    "DeepLift": ({}, IMAGE),
    "DeepLiftShap": ({"baselines": ZEROS}, IMAGE),
    "InputXGradient": ({}, IMAGE),
    "Saliency": ({"abs": False}, IMAGE),
    "GuidedBackprop": ({}, IMAGE),
    "Deconvolution": ({}, IMAGE),
    "GuidedGradCam": ({"layer": "conv", "interpolate_mode": "bilinear"}, IMAGE),
    "FeatureAblation": ({"feature_mask": SQUARES}, IMAGE),
    "FeaturePermutation": ({"feature_mask": SQUARES}, IMAGE),
    "Occlusion": ({"sliding_window_shapes": [1, 3, 3], "strides": [1, 3, 3]}, IMAGE),
    "ShapleyValueSampling": ({"feature_mask": SQUARES, "n_samples": 2}, IMAGE),
    "ShapleyValues": ({"feature_mask": SQUARES}, IMAGE),
    "Lime": ({"feature_mask": SQUARES, "n_samples": 8}, IMAGE),
    "LRP": ({}, IMAGE),
    "KernelShap": ({"feature_mask": SQUARES, "n_samples": 8}, IMAGE),
    "LayerConductance": ({"layer": "conv", "n_steps": 4}, LAYER),
    "LayerGradientXActivation": ({"layer": "conv"}, LAYER),
    "LayerFeatureAblation": ({"layer": "pool"}, (2, 4, 3, 3)),
    "InternalInfluence": ({"layer": "conv", "n_steps": 4}, LAYER),
    "LayerGradCam": ({}, (2, 1, 6, 6)),
    "LayerDeepLift": ({"layer": "conv"}, LAYER),
    "LayerDeepLiftShap": ({"layer": "conv", "baselines": ZEROS}, LAYER),
    "LayerGradientShap": ({"layer": "conv", "baselines": ZEROS, "n_samples": 2}, LAYER),
    "LayerIntegratedGradients": ({"layer": "conv", "n_steps": 4}, LAYER),
    "LayerLRP": ({}, LAYER),
    "NeuronConductance": (NEURON | {"n_steps": 4}, IMAGE),
    "NeuronFeatureAblation": (NEURON, IMAGE),
    "NeuronGradient": (NEURON, IMAGE),
    "NeuronIntegratedGradients": (NEURON | {"n_steps": 4}, IMAGE),
    "NeuronDeepLift": (NEURON, IMAGE),
    "NeuronDeepLiftShap": (NEURON | {"baselines": ZEROS}, IMAGE),
    "NeuronGradientShap": (NEURON | {"baselines": ZEROS, "n_samples": 2}, IMAGE),
    "NeuronDeconvolution": (NEURON, IMAGE),
    "NeuronGuidedBackprop": (NEURON, IMAGE),
    "NoiseTunnel": ({"attribution_method": "Saliency", "nt_samples": 2}, IMAGE),
    "GradientShap": ({"baselines": ZEROS, "n_samples": 2}, IMAGE),
}
REASONS = {
    "it is no attribution class": {
        "LLMAttributionResult", "RemoteLLMProvider", "VLLMProvider", "InterpretableInput", "ProductBaselines",
        "ImageMaskInput", "InterpretableEmbeddingBase", "TextTemplateInput", "TextTokenInput", "TokenReferenceBase",
        "visualization", "configure_interpretable_embedding_layer", "remove_interpretable_embedding_layer",
        "Summarizer", "CommonStats", "ClassSummarizer", "Mean", "StdDev", "MSE", "Var", "Min", "Max", "Sum", "Count",
        "StatValue", "SummarizerSingleTensor",
    },
    "its `attribute` takes no inputs": {
        "Attribution", "GradientAttribution", "PerturbationAttribution", "NeuronAttribution", "LayerAttribution",
        "DataLoaderAttribution", "LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution",
    },
    "its `attribute` takes no target": {"LayerActivation"},
    "its constructor needs functions": {"LimeBase"},
    "it selects its target twice": {"LayerFeaturePermutation"},
}  # fmt: skip


def test_each_exported_class_works_or_has_a_reason() -> None:
    stated = set(WORKS).union(*REASONS.values())
    assert set(captum.attr.__all__) <= stated


@pytest.mark.parametrize("name", WORKS)
def test_a_class_works_and_leaves_no_trace(name: str) -> None:
    arguments, shape = WORKS[name]
    model, method = Net().train(), f"captum:{name}"
    before = traces(model)
    maps = explain(model, images(), Y, methods=(method,), method_args={method: arguments}).maps[method]
    assert tuple(maps.shape) == shape
    assert maps.dtype is torch.float32
    assert (maps != 0).any()
    assert traces(model) == before
    again = explain(model, images(), Y, methods=(method,), method_args={method: arguments}).maps[method]
    assert torch.equal(maps, again)  # random ones too


@pytest.mark.parametrize(("reason", "name"), [(r, n) for r, names in REASONS.items() for n in sorted(names)])
def test_captum_classes_that_cannot_run_name_the_reason(reason: str, name: str) -> None:
    if not hasattr(captum.attr, name):
        pytest.skip("this release of Captum has no such name")
    with pytest.raises(ValueError, match=f"got '{name}': {reason}"):
        check_methods(f"captum:{name}")


def test_maps_are_those_of_captum() -> None:
    model, x = Net().eval(), images()
    method = "captum:Occlusion"
    options: dict[str, Any] = {"sliding_window_shapes": (1, 2, 3), "baselines": 0.5}
    theirs = captum.attr.Occlusion(model).attribute(x, target=Y, **options)
    for chunk_size in (1, 2):
        ours = explain(model, x, Y, methods=method, method_args={method: options}, chunk_size=chunk_size).maps[method]
        torch.testing.assert_close(ours, theirs.detach().float())
    method = "captum:Saliency"
    ours = explain(model, x, Y, methods=method, method_args={method: {"abs": False}}).maps[method]
    torch.testing.assert_close(ours, saliency(model, x, Y))


def test_baselines_of_each_image_are_cut_with_the_images() -> None:
    model, x, method = Net().eval(), images(), "captum:IntegratedGradients"
    baselines = x.flip(0)
    theirs = captum.attr.IntegratedGradients(model).attribute(x, baselines=baselines, target=Y)
    arguments = {method: {"baselines": baselines}}
    ours = explain(model, x, Y, methods=method, method_args=arguments, chunk_size=1).maps[method]
    torch.testing.assert_close(ours, theirs.detach().float())


def test_a_layer_of_tokens_lies_on_the_grid() -> None:
    torch.manual_seed(8)
    method = "captum:LayerGradientXActivation"
    maps = explain(ToyTransformer().eval(), images(), Y, methods=method).maps[method]
    assert maps.shape == (2, 8, 3, 3)


def test_token_models_are_explained_at_their_embedding() -> None:
    embedding = nn.Embedding(10, 4)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(12, 3))
    tokens, method = torch.tensor([[1, 2, 3], [4, 5, 6]]), "captum:LayerIntegratedGradients"
    maps = explain(model, tokens, Y, methods=method, method_args={method: {"layer": "0"}}).maps[method]
    weight = next(iter(model[2].parameters()))[Y].view(2, 3, 4)
    torch.testing.assert_close(maps, ((embedding(tokens) - embedding(torch.zeros_like(tokens))) * weight).detach())


class TwoEmbeddings(nn.Module):
    """Embeddings of words and of places, added up, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.word, self.place, self.wide = nn.Embedding(10, 4), nn.Embedding(3, 4), nn.Embedding(10, 2)
        self.act, self.head = nn.Tanh(), nn.Linear(18, 3)

    def forward(self, ids: Tensor) -> Any:
        embedded = self.word(ids) + self.place(torch.arange(3).expand_as(ids))
        return self.head(torch.cat([self.act(embedded), self.wide(ids)], dim=2).flatten(1))


@pytest.mark.filterwarnings("ignore:Multiple layers provided")
@pytest.mark.parametrize("name", ["LayerIntegratedGradients", "LayerGradientXActivation"])
def test_several_layers_are_added_up(name: str) -> None:
    model, tokens, method = TwoEmbeddings().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]]), f"captum:{name}"
    theirs = getattr(captum.attr, name)(model, [model.word, model.place]).attribute(tokens, target=Y)
    for chunk_size in (None, 1):
        arguments = {method: {"layer": ["word", "place"]}}
        ours = explain(model, tokens, Y, methods=method, method_args=arguments, chunk_size=chunk_size).maps[method]
        torch.testing.assert_close(ours, (theirs[0] + theirs[1]).detach().float())


def test_layers_of_images_are_added_up_too() -> None:
    method = "captum:LayerGradientXActivation"

    def maps(layer: Any) -> Tensor:
        return explain(Net(), images(), Y, methods=method, method_args={method: {"layer": layer}}).maps[method]

    torch.testing.assert_close(maps(["conv", "act"]), maps("conv") + maps(["act"]))
    with pytest.raises(
        ValueError, match=r"same shape, because they are added up, got conv \(2, 4, 6, 6\), pool \(2, 4, 3, 3\)"
    ):
        maps(["conv", "pool"])


def test_only_classes_for_several_layers_are_given_several_layers() -> None:
    taking = {
        name
        for name in WORKS
        if "layer" in (parameters := inspect.signature(getattr(captum.attr, name)).parameters)
        and "List" in str(parameters["layer"].annotation)
    }
    assert taking == set(_SEVERAL_LAYERS)
    method = "captum:LayerConductance"
    with pytest.raises(
        ValueError, match=r"`layer` of LayerConductance to be .*LayerIntegratedGradients, LayerLRP take"
    ):
        explain(Net(), images(), Y, methods=method, method_args={method: {"layer": ["conv", "act"]}})


RELEVANT: dict[str, nn.Module] = {
    "flatten": nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 3, bias=False),
    ),
    "layer norm": nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3, bias=False)
    ),
    "other activations": nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.GELU(), nn.GroupNorm(2, 4), nn.SiLU(), nn.AdaptiveMaxPool2d(2),
        nn.Dropout2d(), nn.Flatten(), nn.Linear(16, 3, bias=False),
    ),
}  # fmt: skip


class Residual(nn.Module):
    """A shortcut, added by a function or by Captum's module; one ReLU is used twice, and the loss has no rule."""

    def __init__(self, *, by_function: bool) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second = (nn.Conv2d(c, 4, 3, padding=1, bias=False) for c in (1, 4))
        self.relu, self.head = nn.ReLU(), nn.Linear(144, 3, bias=False)
        self.add = torch.add if by_function else captum.attr._utils.custom_modules.Addition_Module()
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.first(x))
        return self.head(self.relu(self.add(x, self.second(x))).flatten(1))


@pytest.mark.parametrize("model", [*RELEVANT.values(), Residual(by_function=False)], ids=[*RELEVANT, "shortcut"])
def test_relevance_is_conserved_from_the_logit_to_the_input(model: nn.Module) -> None:
    before = traces(model)
    found = explain(model, images(), Y, methods="captum:LRP")
    logit = found.logits.gather(1, Y.unsqueeze(1)).squeeze(1)  # without biases none is absorbed
    torch.testing.assert_close(found.maps["captum:LRP"].flatten(1).sum(dim=1), logit, atol=1e-5, rtol=1e-4)
    assert traces(model) == before


def test_relevance_of_an_activation_is_that_of_the_layer_before_it() -> None:
    model, method = RELEVANT["flatten"], "captum:LayerLRP"

    def maps(**arguments: Any) -> Tensor:
        return explain(model, images(), Y, methods=method, method_args={method: arguments}).maps[method]

    torch.testing.assert_close(maps(), maps(layer="0"))
    torch.testing.assert_close(maps(layer="1"), maps(layer="0"))


def test_a_neuron_is_explained_whatever_the_target() -> None:
    model, method = Net().eval(), "captum:NeuronIntegratedGradients"
    theirs = captum.attr.NeuronIntegratedGradients(model, model.conv).attribute(images(), (1, 2, 2), n_steps=4)
    arguments = {method: NEURON | {"n_steps": 4}}
    for targets in (Y, Y.flip(0)):
        ours = explain(model, images(), targets, methods=method, method_args=arguments).maps[method]
        torch.testing.assert_close(ours, theirs.detach().float())
    with pytest.raises(ValueError, match=r"of captum:NeuronGradient to have neuron_selector, got none\. Pass"):
        check_methods("captum:NeuronGradient", {})


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("DeepLift", ByFunction(), r"contributions of captum:DeepLift to add up .* off by \d+ % of it\. .* `F\.relu`"),
        ("DeepLift", nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, 3)), r"off by \d+ %"),
        ("GuidedBackprop", ByFunction(), r"be a module `nn\.ReLU` for captum:GuidedBackprop, .* got 1 other calls"),
        ("Deconvolution", ByFunction(), r"Use guided_backprop, deconvolution or guided_grad_cam, which see them"),
        ("GuidedGradCam", ByFunction(), r"captum:GuidedGradCam, .* got 1 other calls"),
        ("DeepLift", Residual(by_function=True), r"once for captum:DeepLift, .* got relu 2 times\. Give each call a"),
        ("LRP", Residual(by_function=True), r"a rule for, got the function add of two outputs\. Add with captum's"),
        ("LRP", ToyTransformer("module"), r"a rule for, got the function .* of two outputs"),
        (
            "LRP",
            nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.LogSoftmax(dim=1)),
            r"got 2: LogSoftmax\. Set the attr",
        ),
    ],
)
def test_a_model_that_a_class_cannot_explain_is_named_and_left_as_it_was(
    name: str, model: nn.Module, message: str
) -> None:
    before = traces(model)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            explain(model, images(), Y, methods=f"captum:{name}")
        assert traces(model) == before


def test_deeplift_explains_images_that_are_its_baseline() -> None:
    maps = explain(Net(), torch.zeros(2, 1, 6, 6), Y, methods="captum:DeepLift").maps["captum:DeepLift"]
    assert not maps.any()


def test_two_classes_of_one_logit_and_a_forward_of_ones_own_are_explained() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1))
    weight = next(iter(model[1].parameters())).detach().view(1, 1, 6, 6)
    maps = explain(
        model, images(), torch.tensor([1, 1]), methods="captum:InputXGradient", forward=lambda x: model(2 * x)
    ).maps["captum:InputXGradient"]
    torch.testing.assert_close(maps, 2 * weight * images())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"captum:Occlusion": {"window": 1}},
            r"of captum:Occlusion to be among chunk_size, sliding_window_shapes, .*, got window",
        ),
        ({"captum:Lime": {}}, r"`method_args` to have entries for captum:Occlusion only, got captum:Lime"),
    ],
)
def test_arguments_that_the_class_does_not_take_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_methods("captum:Occlusion", arguments)


def test_pairs_of_classes_and_unknown_layers_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"one class for each image, got pairs of classes\. captum:Saliency cannot explain the difference",
    ):
        explain(Net(), images(), torch.tensor([[0, 1], [1, 2]]), methods="captum:Saliency")
    method = "captum:LayerConductance"
    with pytest.raises(ValueError, match="`layer` to name a layer of Net, got 'convv'"):
        explain(Net(), images(), Y, methods=method, method_args={method: {"layer": "convv"}})


class Recurrent(nn.Module):
    """A network with a layer that returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, series: Tensor) -> Tensor:
        outputs, state = self.gru(series.transpose(1, 2))
        logits: Tensor = self.head(outputs.mean(dim=1) + state[0])
        return logits


def test_a_layer_that_returns_several_tensors_is_refused() -> None:
    method = "captum:LayerGradientXActivation"
    with pytest.raises(ValueError, match="LayerGradientXActivation to give one map for each of 2 images, got a tuple"):
        explain(Recurrent(), torch.rand(2, 4, 6), Y, methods=method, method_args={method: {"layer": "gru"}})


def test_the_error_says_what_to_install_where_captum_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "captum", raising=False)
    with pytest.raises(
        ValueError, match=r"Captum to be installed for captum:Occlusion, got no such package.*pip install captum"
    ):
        check_methods("captum:Occlusion")
