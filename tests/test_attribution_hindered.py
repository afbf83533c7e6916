"""Models that hinder explanations: cut graphs, checkpoints, more than logits, inputs changed in place, scripts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynalens import deletion_curve, explain, feature_maps, smallest_step
from dynalens.attribution import find_target_layer, saliency
from dynalens.attribution.explanation import find_forward
from dynalens.faithfulness import class_logits
from toys import SmallCNN, ToyTransformer
from traces import traces

Y = torch.tensor([0, 2])
METHODS = (
    "saliency", "integrated_gradients", "grad_cam", "guided_backprop", "captum:IntegratedGradients",
    "captum:LayerGradCam", "captum:DeepLift", "captum:NoiseTunnel",
)  # fmt: skip
ARGUMENTS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 3}, "captum:NoiseTunnel": {"nt_samples": 2}
}  # fmt: skip


def images() -> Tensor:
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))


class Probe(nn.Module):
    """A backbone, run as ``how`` says, and a head that is trained."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.how = how
        self.conv, self.act, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.head = nn.Linear(36, 3)
        if how == "frozen":
            self.conv.requires_grad_(False)

    def features(self, x: Tensor) -> Any:
        return self.pool(self.act(self.conv(x))).flatten(1)

    @torch.no_grad()
    def features_without_gradients(self, x: Tensor) -> Any:
        return self.features(x)

    def forward(self, x: Tensor) -> Any:
        if self.how == "decorated":
            return self.head(self.features_without_gradients(x))
        if self.how == "detached":
            return self.head(self.features(x).detach())
        if self.how in CONTEXTS:
            with CONTEXTS[self.how]():
                features = self.features(x)
            return self.head(features)
        return self.head(self.features(x))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("how", ["frozen", "decorated", "detached", *CONTEXTS])
def test_a_backbone_without_gradients_is_explained_by_the_function_it_computes(how: str) -> None:
    model, options = Probe(how), {"methods": METHODS, "method_args": ARGUMENTS}
    before = traces(model)
    maps = explain(model, images(), Y, **options).maps  # type: ignore[arg-type]
    expected = explain(Probe("as usual"), images(), Y, **options).maps  # type: ignore[arg-type]
    for method in METHODS:
        torch.testing.assert_close(maps[method], expected[method], msg=method)
    assert traces(model) == before
    with torch.no_grad():
        assert not model(images()).requires_grad
    with torch.inference_mode():
        assert model.head(torch.ones(1, 36)).is_inference()


def test_attention_without_gradients_is_rolled_out_once() -> None:
    class Frozen(ToyTransformer):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                tokens = super().forward(x)
            return tokens * scale

    scale = torch.ones((), requires_grad=True)
    for method in ("attention_rollout", "gradient_rollout"):
        maps = []
        for kind in (Frozen, ToyTransformer):
            torch.manual_seed(8)
            maps.append(explain(kind(), images(), Y, methods=method).maps[method])
        torch.testing.assert_close(*maps)


class LeavesTorch(Probe):
    def features(self, x: Tensor) -> Any:
        return torch.from_numpy(super().features(x).detach().numpy().copy())


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "transition_attention"])
def test_attention_of_a_head_that_reads_tokens_by_a_query_of_its_own_is_not_rolled_out(method: str) -> None:
    """The product of the other layers leaves out how the head reads them, as in CaiT, XCiT and attention pooling."""

    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Any:
            tokens = x.flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            query = mixed.mean(dim=1, keepdim=True)
            return nn.functional.scaled_dot_product_attention(query, mixed, mixed).expand(-1, 1, 3)[:, 0]

    with pytest.raises(ValueError, match=r"same tokens in each layer, got \[\(2, 4, 4\), \(2, 1, 4\)\]"):
        explain(Pooled(), images()[:, :, :2, :2], Y, methods=method)


def test_a_choice_of_experts_for_each_token_is_no_attention() -> None:
    class Routed(ToyTransformer):
        def forward(self, x: Tensor) -> Any:
            experts = x.flatten(1)[:, :20].view(-1, 10, 2).softmax(dim=-1)  # one of two for each of its ten tokens
            return super().forward(x) + 0 * experts.sum()

    maps = []
    for kind in (Routed, ToyTransformer):
        torch.manual_seed(8)
        maps.append(explain(kind(), images(), Y, methods="attention_rollout").maps["attention_rollout"])
    torch.testing.assert_close(*maps)


def test_the_error_for_a_missing_graph_names_methods_that_work() -> None:
    model = LeavesTorch("as usual")
    with pytest.raises(
        ValueError, match=r"depend on images, got no gradient .* needs no gradient: score_cam, captum:Occ"
    ):
        saliency(model, images(), Y)
    with pytest.raises(ValueError, match=r"a layer whose output is \(N, C, \*spatial\).* Pass `target_layer=`"):
        find_target_layer(model, images())
    advised = {"captum:Occlusion": {"sliding_window_shapes": (1, 3, 3)}}
    methods = ("score_cam", "captum:Occlusion", "captum:FeatureAblation")
    maps = explain(model, images(), Y, methods=methods, method_args=advised, target_layer="conv").maps
    assert set(maps) == set(methods)


class Checkpointed(SmallCNN):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        hidden = checkpoint(lambda x: self.act(self.norm(self.conv(x))), x, use_reentrant=self.reentrant)
        return self.head(self.pool(hidden).flatten(1))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_change_no_map(reentrant: bool) -> None:
    methods = ("saliency", "grad_cam", "guided_backprop", "captum:IntegratedGradients")
    maps = []
    for model in (Checkpointed(reentrant), SmallCNN()):
        torch.manual_seed(7)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        maps.append(explain(model, images(), Y, methods=methods).maps)
    for method in methods:
        torch.testing.assert_close(maps[0][method], maps[1][method], msg=method)


class Outputs(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


@dataclass
class ModelOutput:
    loss: Tensor | None
    logits: Tensor


RETURNED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a dictionary": lambda logits, features: {"features": features, "logits": logits},
    "a dictionary without the name": lambda logits, features: {"map": features[:, None, None], "out": logits},
    "a dictionary that begins with auxiliary logits": lambda logits, features: {"aux": -logits, "out": logits},
    "logits and auxiliary logits": lambda logits, features: (logits, -logits),
    "a named tuple": lambda logits, features: Outputs(logits, -logits),
    "a loss and logits": lambda logits, features: (logits.sum(), logits),
    "a list of one": lambda logits, features: [logits],
    "a model output": lambda logits, features: ModelOutput(None, logits),
}


class Returns(nn.Module):
    def __init__(self, what: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.probe, self.what = Probe("as usual"), what

    def forward(self, x: Tensor) -> Any:
        features = self.probe.features(x)
        return self.what(self.probe.head(features), features)


@pytest.mark.parametrize("what", RETURNED.values(), ids=RETURNED.keys())
def test_logits_are_found_in_what_a_model_returns(what: Callable[[Tensor, Tensor], Any]) -> None:
    model, plain = Returns(what), Probe("as usual")
    methods = ("saliency", "grad_cam", "captum:Saliency", "captum:Occlusion")
    options: dict[str, Any] = {
        "methods": methods,
        "method_args": {"captum:Occlusion": {"sliding_window_shapes": (1, 2, 2)}},
    }
    ours, expected = explain(model, images(), Y, **options), explain(plain, images(), Y, **options)
    for method in methods:
        torch.testing.assert_close(ours.maps[method], expected.maps[method], msg=method)
    torch.testing.assert_close(ours.logits, expected.logits)
    torch.testing.assert_close(class_logits(model, images()), expected.logits)
    relevance = ours.maps["saliency"].sum(dim=1)
    curves = [deletion_curve(one, images(), Y, relevance, steps=3) for one in (model, plain)]
    torch.testing.assert_close(*curves)
    assert find_forward(model, images()) is model


@pytest.mark.parametrize(
    "what",
    [
        lambda logits, features: (features, logits),
        lambda logits, features: {"features": features, "out": logits},
        lambda logits, features: {"early": -logits, "late": logits},
        lambda logits, features: (features[:, None, None], logits, logits),
        lambda logits, features: "logits",
    ],
)
def test_an_output_in_which_logits_are_not_clear_is_refused(what: Callable[[Tensor, Tensor], Any]) -> None:
    message = r"to return logits, got a (tuple|dict|str)\. Pass `forward=`"
    for method in ("saliency", "captum:Saliency"):
        with pytest.raises(ValueError, match=message):
            explain(Returns(what), images(), Y, methods=method)
    with pytest.raises(ValueError, match=message):
        class_logits(Returns(what), images())


class Scaling(nn.Module):
    """Scales its inputs, in place or not, before a network looks at them."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net, self.in_place = SmallCNN(), in_place

    def forward(self, x: Tensor) -> Any:
        return self.net(x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25)


@pytest.mark.parametrize(
    "look",
    [
        lambda model, x: class_logits(model, x),
        lambda model, x: find_forward(model, x)(x.clone()),
        lambda model, x: deletion_curve(model, x, Y, x[:, 0].abs(), steps=3),
        lambda model, x: smallest_step(model, x, iterations=2).steps,
        lambda model, x: feature_maps(model, x, "net.conv"),
        *(
            lambda model, x, method=method: explain(
                model, x, Y, methods=method, method_args={m: ARGUMENTS[m] for m in ARGUMENTS if m == method}
            ).maps[method]
            for method in (*METHODS, "score_cam", "ablation_cam", "captum:FeatureAblation")
        ),
    ],
)  # fmt: skip
def test_a_model_may_scale_its_inputs_in_place(look: Callable[[nn.Module, Tensor], Tensor]) -> None:
    x = images()
    results = [look(Scaling(in_place=in_place).eval(), x) for in_place in (True, False)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert torch.equal(x, images())


class Counting(nn.Module):
    """Has a state of its own where Python sees it no more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net, self.calls, self.mean = SmallCNN(), 0, torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_has_the_maps_of_the_model_and_is_left_as_it_was() -> None:
    model, script = Counting(), torch.jit.script(Counting())
    for module in (model, script):  # in training mode
        module(images())
    mean = script.mean.clone()
    expected = explain(model, images(), Y, methods="saliency").maps["saliency"]
    scripts_maps = explain(nn.Sequential(script), images(), Y, methods="saliency").maps["saliency"]
    torch.testing.assert_close(scripts_maps, expected)
    assert (script.calls, script.training, torch.equal(script.mean, mean)) == (1, True, True)
    assert all(module.training for module in script.modules())


def test_gradients_that_overflow_float16_are_exact() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).half()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 256.0)
    maps = saliency(model, torch.full((1, 1, 1, 1), 2.0**-10), torch.tensor([0]))
    assert float(maps) == 256.0**2  # the largest float16 is 65,504


def test_bytes_and_complex_numbers_are_refused_with_a_way_that_works() -> None:
    class Scales(Probe):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.float() / 255)

    pixels = torch.arange(72, dtype=torch.uint8).view(2, 1, 6, 6)
    with pytest.raises(
        ValueError, match=r"floating .*, got \(2, 1, 6, 6\), torch\.uint8\. If .* pass `images\.float\(\)`"
    ):
        saliency(Scales("as usual"), pixels, Y)
    expected = saliency(Probe("as usual"), pixels.float() / 255, Y) / 255
    torch.testing.assert_close(saliency(Scales("as usual"), pixels.float(), Y), expected)

    class Magnitude(Probe):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.abs())

    model, parts = Magnitude("as usual"), torch.randn(2, 2, 6, 6)
    with pytest.raises(
        ValueError, match=r"torch\.complex64\. Pass real and imaginary parts as channels, and `forward=`"
    ):
        saliency(model, torch.complex(parts[:, :1], parts[:, 1:]), Y)
    maps = saliency(model, parts, Y, forward=lambda x: model(torch.complex(x[:, :1], x[:, 1:])))
    assert maps.shape == parts.shape
