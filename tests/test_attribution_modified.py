"""Modified backward passes equal what is written out by hand, and Captum's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop, GuidedGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.attribution import deconvolution, guided_backprop, guided_grad_cam, rect_grad, saliency
from dynalens.observation import out_of_place
from toys import SmallCNN

Y = torch.tensor([0, 2, 1])
RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "discarded result": lambda x: (x.relu_(), x)[1],
    "module of six": nn.ReLU6(),
    "module of six in place": nn.ReLU6(inplace=True),
    "function of six": F.relu6,
}


class TwoLayers(nn.Module):
    """Logits (v . ReLU(W ReLU(U x)), 0)."""

    U = torch.tensor([[1.0, 2.0], [-1.0, 1.0], [2.0, -1.0]])
    W = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0], [0.5, 1.0, -2.0]])
    V = torch.tensor([1.0, -2.0, 3.0])

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        score = self.relu(self.relu(x.flatten(1) @ self.U.T) @ self.W.T) @ self.V
        return torch.stack([score, torch.zeros_like(score)], dim=1)


X = torch.tensor([[[1.0, 1.0]]])  # U x = (3, 0, 1); W of it = (3.5, -2, -0.5)


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
def test_modified_gradients_of_two_layers_equal_those_by_hand(relu: Callable[[Tensor], Tensor]) -> None:
    model, zero = TwoLayers(relu), torch.tensor([0])
    # Gradient at the second ReLU's output: (1, -2, 3). Active there: only the first. At the first: (1, 0, 1).
    # Guided: (1, 0, 0) @ W = (1, -1, 0.5), of which (1, 0, 0.5) passes; @ U = (2, 1.5).
    assert guided_backprop(model, X, zero).tolist() == [[[2.0, 1.5]]]
    # Deconvolution: (1, 0, 3) @ W = (2.5, 2, -5.5), of which (2.5, 2, 0) passes; @ U = (0.5, 7).
    assert deconvolution(model, X, zero).tolist() == [[[0.5, 7.0]]]
    # The plain gradient: (1, -1, 0.5) with the inactive unit left out, (1, 0, 0.5) @ U.
    assert saliency(model, X, zero).tolist() == [[[2.0, 1.5]]]
    # RectGrad, two thirds: output * gradient is (3.5, 0, 0) and tau 0: (1, 0, 0). Then 3 * 1, 0, 1 * 0.5, and tau 0.5:
    # (1, 0, 0) @ U = (1, 2).
    assert rect_grad(model, X, zero, percentile=66.0).tolist() == [[[1.0, 2.0]]]


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def cnn() -> SmallCNN:
    torch.manual_seed(4)
    return SmallCNN().eval()


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning", "ignore:Input Tensor:UserWarning")
def test_maps_equal_captums() -> None:
    model, x = cnn(), images().requires_grad_()
    ours = [f(model, x, Y) for f in (guided_backprop, deconvolution)]
    ours.append(guided_grad_cam(model, x, Y, target_layer="conv"))
    with out_of_place(model):
        theirs: list[Any] = [C(model).attribute(x, target=Y) for C in (GuidedBackprop, Deconvolution)]
        theirs.append(GuidedGradCam(model, model.conv).attribute(x, target=Y, interpolate_mode="bilinear"))
    for mine, captums in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, captums.detach())
    assert len({tuple(mine.flatten().tolist()) for mine in ours}) == 3


def test_rect_grad_keeps_the_most_important_units_of_each_image() -> None:
    model, x = cnn(), images()
    a = model.norm(model.conv(x))
    out = a.relu().detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head(model.pool(out).flatten(1))[range(3), Y].sum(), [out])
    kept = torch.zeros_like(g)
    for i in range(3):
        importance = sorted(float(v) for v in (out[i] * g[i]).detach().flatten())
        tau = max(importance[-(-90 * len(importance) // 100) - 1], 0.0)
        kept[i] = torch.where(out[i] * g[i] > tau, g[i], torch.zeros(()))
    expected = torch.autograd.grad(model.norm(model.conv(leaf := x.clone().requires_grad_())), [leaf], kept)[0]
    torch.testing.assert_close(rect_grad(model, x, Y, percentile=90.0), expected)
    torch.testing.assert_close(rect_grad(model, x, Y, percentile=90.0, chunk_size=1), expected)
    torch.testing.assert_close(rect_grad(model, x, Y, percentile=0.0), guided_backprop(model, x, Y))


def test_rect_grad_keeps_93_of_100_units_above_the_seventh_percentile() -> None:
    # The importance of unit i is i + 1, so tau is 7. In binary numbers 0.07 * 100 is above 7, which must not make it 8.
    head = nn.Linear(100, 2, bias=False)
    nn.init.ones_(head.weight)
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), head)
    image = torch.arange(1.0, 101.0).view(1, 1, 100)
    assert int(rect_grad(model, image, torch.tensor([0]), percentile=7.0).sum()) == 93


def test_other_activations_keep_their_gradient_and_a_model_without_relu_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.GELU(), nn.Hardtanh(), nn.Linear(4, 3))
    for function in (guided_backprop, deconvolution, rect_grad):
        with pytest.raises(ValueError, match=r"the model to call ReLUs, .*, got no such call in Sequential"):
            function(model, images(), Y)
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.GELU(), nn.Linear(4, 3), nn.ReLU())
    x = images().requires_grad_()
    (expected,) = torch.autograd.grad(mixed(x)[range(3), Y].sum(), [x])
    torch.testing.assert_close(guided_backprop(mixed, images(), Y), expected)


def test_a_percentile_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`percentile` to be in \[0, 100\), got 100"):
        rect_grad(cnn(), images(), Y, percentile=100.0)
