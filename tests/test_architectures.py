"""The target layer of real architectures, with random weights: needs torchvision and timm."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynalens.attribution import (
    explain,
    find_target_layer,
    grad_cam_plus_plus,
    gradient_rollout,
    layer_cam,
    resize,
)
from dynalens.observation import module_named

HAVE = all(importlib.util.find_spec(name) is not None for name in ("torchvision", "timm"))
pytestmark = [pytest.mark.architectures, pytest.mark.skipif(not HAVE, reason="torchvision and timm are not installed")]
Y = torch.tensor([0, 3])
SIDE = 64


def torchvision_model(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    model = models.get_model(name, weights=None, num_classes=10, **options)
    assert isinstance(model, nn.Module)
    return model


def small_vit(_name: str, **options: Any) -> nn.Module:
    """torchvision's ViT-B/16 with two of its twelve layers, a quarter as wide: its 86 million numbers take seconds."""
    from torchvision.models import VisionTransformer

    sizes = {"patch_size": 16, "num_layers": 2, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 768}
    model = VisionTransformer(num_classes=10, **sizes, **options)
    assert isinstance(model, nn.Module)
    return model


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=10, **options)
    assert isinstance(model, nn.Module)
    return model


# Model, what builds it, and the layer that a person would choose.
CONVOLUTIONAL: list[tuple[Callable[..., nn.Module], str, str]] = [
    (torchvision_model, "resnet18", "layer4"),
    (torchvision_model, "resnext50_32x4d", "layer4"),
    (torchvision_model, "convnext_tiny", "features"),
    (torchvision_model, "efficientnet_b0", "features"),
    (torchvision_model, "densenet121", "features"),
    (torchvision_model, "mobilenet_v2", "features"),
    (torchvision_model, "mobilenet_v3_small", "features"),
    (timm_model, "resnet18", "layer4"),
    (timm_model, "convnext_atto", "stages"),
    (timm_model, "efficientnet_b0", "bn2"),
    (timm_model, "densenet121", "features"),
    (timm_model, "mobilenetv2_035", "bn2"),
    (timm_model, "mobilenetv3_small_050", "blocks"),
]
# The class token alone reaches the head: the norm before the last attention. Averaged tokens: the last block or norm.
TRANSFORMERS: list[tuple[Callable[..., nn.Module], str, dict[str, Any], str, int]] = [
    (small_vit, "vit", {"image_size": SIDE}, "encoder.layers.encoder_layer_1.ln_1", 4),
    (torchvision_model, "swin_t", {}, "norm", 2),
    (torchvision_model, "swin_v2_t", {}, "norm", 2),
    (timm_model, "vit_tiny_patch16_224", {"img_size": SIDE}, "blocks.11.norm1", 4),
    (timm_model, "vit_tiny_patch16_224", {"img_size": SIDE, "global_pool": "avg"}, "blocks", 4),
    (timm_model, "deit_tiny_distilled_patch16_224", {"img_size": SIDE}, "blocks.11.norm1", 4),
    (timm_model, "vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2}, "blocks.1.norm1", 4),
    (timm_model, "swin_tiny_patch4_window7_224", {"img_size": SIDE, "window_size": 2}, "norm", 2),
]
ROLLED = [entry for entry in TRANSFORMERS if "swin" not in entry[1]]


def images(side: int = SIDE) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def built(make: Callable[..., nn.Module], name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = make(name, **options).eval()
    for parameter in model.parameters():  # heads and scales that start with zeros would make all maps zero
        if not bool(parameter.any()):
            nn.init.normal_(parameter.data, std=0.1)
    return model


@pytest.mark.parametrize(("make", "name", "layer"), CONVOLUTIONAL, ids=lambda v: getattr(v, "__name__", None) or str(v))
def test_the_last_feature_map_of_a_convolutional_network_is_found(
    make: Callable[..., nn.Module], name: str, layer: str
) -> None:
    model = built(make, name)
    seen = explain(model, images(), Y, methods=("layer_cam",))
    assert seen.target_layer == layer
    assert seen.maps["layer_cam"].shape == (2, 2, 2)  # all of them divide the side by 32
    compiled: Any = torch.compile(model, backend="eager")
    assert find_target_layer(compiled, images()) == layer


@pytest.mark.parametrize(("make", "name", "options", "layer", "grid"), TRANSFORMERS)
def test_the_tokens_of_a_transformer_lie_on_the_grid_of_the_patches(
    make: Callable[..., nn.Module], name: str, options: dict[str, Any], layer: str, grid: int
) -> None:
    model, x = built(make, name, **options), images(options.get("img_size", SIDE))
    seen = explain(model, x, Y, methods=("grad_cam", "layer_cam"))
    assert seen.target_layer == layer
    assert seen.maps["grad_cam"].shape == (2, grid, grid)
    torch.testing.assert_close(seen.maps["layer_cam"], layer_cam_by_hand(model, layer, x, grid))
    assert (seen.maps["layer_cam"] > 0).any()


def layer_cam_by_hand(model: nn.Module, layer: str, x: Tensor, grid: int) -> Tensor:
    """ReLU(sum of ReLU(gradient) * activation over channels), with the last grid * grid tokens taken one by one."""
    outputs: list[Tensor] = []
    handle = module_named(model, layer).register_forward_hook(lambda _m, _a, output: outputs.append(output))
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(2), Y].sum(), outputs)
    product = (gradient.clamp(min=0) * outputs[0]).detach().sum(dim=-1).flatten(1)  # tokens last or channels last
    first = product.shape[1] - grid * grid
    expected = torch.zeros(2, grid, grid)
    for row in range(grid):
        for column in range(grid):
            expected[:, row, column] = product[:, first + row * grid + column].clamp(min=0)
    return expected


@pytest.mark.parametrize(("make", "name", "options", "layer", "grid"), ROLLED)
def test_rollouts_read_the_attention_of_real_transformers(
    make: Callable[..., nn.Module], name: str, options: dict[str, Any], layer: str, grid: int
) -> None:
    model, x = built(make, name, **options), images(options.get("img_size", SIDE))
    maps = explain(model, x, Y, methods=("attention_rollout", "gradient_rollout", "transition_attention")).maps
    assert {m.shape for m in maps.values()} == {(2, grid, grid)}
    rolled = maps["attention_rollout"].flatten(1).sum(dim=1)
    assert ((rolled > 0.1) & (rolled <= 1 + 1e-5)).all()  # a row sums to 1, some of it on the class token
    assert (maps["gradient_rollout"] > 0).any()
    assert (maps["transition_attention"] > 0).any()


def test_windows_of_attention_cannot_be_rolled_out() -> None:
    with pytest.raises(ValueError, match=r"the same tokens in each layer, got \[\(18, 3, 49, 49\)"):
        gradient_rollout(built(torchvision_model, "swin_t"), images(), Y)


@contextlib.contextmanager
def one_process(store: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_wrappers_do_not_hide_the_layer(tmp_path: Path) -> None:
    model = built(torchvision_model, "resnet18")
    plain = explain(model, images(), Y).maps
    with one_process(tmp_path / "store"):
        wrapped: Any  # torch types a compiled module as a function
        for wrapped in (nn.parallel.DistributedDataParallel(model), torch.compile(model, backend="eager")):
            seen = explain(wrapped, images(), Y)
            assert seen.target_layer == "layer4"
            torch.testing.assert_close(seen.maps, plain)
            assert explain(wrapped, images(), Y, target_layer="layer3").maps["grad_cam"].shape == (2, 4, 4)


def test_a_layer_without_positions_is_refused_with_the_candidates() -> None:
    with pytest.raises(ValueError, match=r"got 'fc' with \(1, 10\).*layer4 \(1, 512, 2, 2\)"):
        explain(built(torchvision_model, "resnet18"), images(), Y, target_layer="fc")


def test_maps_equal_those_of_pytorch_grad_cam() -> None:
    peer = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    model = built(torchvision_model, "resnet18")
    head = model.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=100.0)  # makes the peer's 1e-6 in a denominator small
    classes = [targets.ClassifierOutputTarget(int(y)) for y in Y]
    layer = module_named(model, "layer3")
    for theirs, ours in (
        (peer.GradCAMPlusPlus, grad_cam_plus_plus),
        (peer.LayerCAM, layer_cam),
    ):
        with theirs(model=model, target_layers=[layer]) as cam:
            scaled = torch.from_numpy(cam(input_tensor=images(), targets=classes))
        mine = ours(model, images(), Y, target_layer="layer3")
        torch.testing.assert_close(at_full_size(mine), scaled, atol=1e-4, rtol=0)
        assert scaled.std() > 0.1


def at_full_size(maps: Tensor) -> Tensor:
    """Return maps as the peer shows them: brought to [0, 1], enlarged, and brought to [0, 1] again."""
    return in_unit(resize(in_unit(maps), (SIDE, SIDE)))


def in_unit(maps: Tensor) -> Tensor:
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / maps.amax(dim=(1, 2), keepdim=True)
