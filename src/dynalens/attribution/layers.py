"""The layer that class activation maps explain, and the layer that embeds tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_any
from dynalens.attribution.layouts import Layouts, as_it_is, has_proportions, nan_gradients
from dynalens.attribution.overrides import captured_attention
from dynalens.attribution.passes import Arrange, Forward, connected_logits, model_input
from dynalens.observation import captured_outputs, forward_of, module_named, undisturbed, unwrap

# Parts of the names of layers that pass a feature map on, or shrink it, without computing one.
_PASSIVE = ("Pool", "Dropout", "Identity", "Flatten", "Upsample", "Pad", "Permute", "Softmax")
_LISTED = 8  # number of layers that an error lists


def find_target_layer(model: nn.Module, images: Tensor, *, forward: Forward | None = None) -> str:
    """Return the dotted name of the last layer with feature maps, which is the usual layer for class activation maps.

    Of all submodules whose output has positions, it is the last one to finish such that the logits depend on more than
    one of its positions. Layers such as pooling and dropout, and everything inside an attention module, are skipped. If
    a block ends with such a layer, the block is returned: ``layer4`` in a ResNet of torchvision. If only the class
    token of a transformer reaches the head, it is the norm before the last attention, because the other tokens have no
    effect after it.

    To find out whether the logits depend on a position, NaN is sent back through the network. So the search does not
    fail if gradients are 0, as for a new ViT whose head has zero weights.

    Args:
        model: The model. One forward and one backward pass of the first image are made. Wrappers of ``torch.compile``
            and DistributedDataParallel do not appear in the name.
        images: Shape ``(N, C, *spatial)``, floating.
        forward: Callable(images) that returns logits. Default: ``model``.

    Raises:
        ValueError: If there is no such layer. The message lists the last layers with the shapes of their outputs.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
        >>> find_target_layer(model, torch.rand(1, 1, 6, 6))
        '1'
    """
    with undisturbed(model):
        look = _look(model, images, forward)
        candidates = [layer for layer in look.layers if layer.arrange is not None and not _is_passive(layer.module)]
        masks = nan_gradients(look.logits, [layer.output for layer in candidates])
        for layer, mask in zip(reversed(candidates), reversed(masks), strict=True):
            if mask is not None and layer.arrange is not None and _positions(layer.arrange(mask)) > 1:
                return layer.name
    raise ValueError(
        "Expected a model with feature maps, of which class activation maps are made: a layer whose output is "
        f"(N, C, *spatial), with more than one position and as many spatial axes as the inputs, {tuple(images.shape)}, "
        f"got {type(unwrap(model)).__name__}, whose last layers give {_name_list(look.layers)}. Pass `target_layer=`, "
        "or leave out the methods that need one, such as grad_cam."
    )


def find_embedding(model: nn.Module, tokens: Tensor, *, forward: Forward | None = None) -> str:
    """Return the dotted name of the layer that embeds tokens, at whose output gradient methods explain integer inputs.

    It is the ``nn.Embedding`` that gives each token its own row of weights. Embeddings of positions and of segments do
    not.

    Args:
        model: The model. One forward pass of the first sample is made.
        tokens: Shape ``(N, T)``, integers.
        forward: Callable(tokens) that returns logits. Default: ``model``.

    Raises:
        ValueError: If there is no such layer, or more than one.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
        >>> find_embedding(model, torch.tensor([[1, 2, 3]]))
        '0'
    """
    run, first_tokens = forward_of(model, forward), tokens[:1]
    with undisturbed(model), torch.no_grad(), captured_outputs(model) as outputs:
        run(first_tokens)
        names = {name for name, module, output in outputs if _embeds(module, first_tokens, output)}
    if len(names) != 1:
        raise ValueError(
            f"Expected {type(unwrap(model)).__name__} to look up tokens of shape {tuple(tokens.shape)}, "
            f"{tokens.dtype}, in exactly one nn.Embedding, got {', '.join(sorted(names)) or 'none'}. Name the "
            "layer whose output is explained: `at` for gradient methods, `layer` for Captum's, as in "
            '`method_args={"saliency": {"at": "embedding"}}`.'
        )
    return names.pop()


def arrangement(model: nn.Module, images: Tensor, name: str, *, forward: Forward | None = None) -> Arrange:
    """Return a callable that brings the output of the named layer to (N, C, *spatial).

    Channels that come last are moved. Tokens (N, T, C) are laid out on the grid of the patches, without the class
    and register tokens before them. To find out the grid, or where the channels are if the proportions of the output do
    not tell, the model runs once more, on the first image.

    The callable raises a ValueError if the output has no positions. The message lists layers whose output has some.
    """
    arranges: list[Arrange] = []

    def arrange(output: Tensor) -> Tensor:
        if not arranges:
            is_plain = has_proportions(output.shape, images.shape)
            arranges.append(as_it_is if is_plain else _arrangement_of(model, images, name, forward))
        return arranges[0](output)

    return arrange


def layer_and_arrangement(
    model: nn.Module, x: Tensor, target_layer: str | None, forward: Forward | None
) -> tuple[nn.Module, Arrange]:
    """Return the target layer, and its :func:`arrangement`. Without a name, the layer is searched."""
    name = target_layer or find_target_layer(model, x, forward=forward)
    return module_named(model, name), arrangement(model, x, name, forward=forward)


def _arrangement_of(model: nn.Module, images: Tensor, name: str, forward: Forward | None) -> Arrange:
    """Return the callable for the output of the named layer in a forward pass of the first image."""
    module = module_named(model, name)
    with undisturbed(model):
        look = _look(model, images, forward)
    calls = [layer for layer in look.layers if layer.module is module]
    if calls and calls[-1].arrange is not None:
        return calls[-1].arrange
    shape = tuple(calls[-1].output.shape) if calls else "no tensor"
    candidates = [layer for layer in look.layers if layer.arrange is not None]
    raise ValueError(
        f"Expected `target_layer` to name a layer with an output of shape (N, C, *spatial) or (N, tokens, C), got "
        f"{name!r} with {shape}. Layers that have one: {_name_list(candidates)}."
    )


def token_layout(
    model: nn.Module, images: Tensor, number: int, *, forward: Forward | None = None
) -> tuple[Arrange, Tensor]:
    """Return a callable that lays tokens (N, T, C) out on the grid, and (T,) bool: which tokens the head reads.

    A token is read if the logits depend on its row of the last attention.

    Raises:
        ValueError: If the tokens fit no grid.
    """
    with undisturbed(model), captured_attention() as attention:
        look = _look(model, images, forward)
        last_weights = [weights for weights in attention if weights.shape[-2:] == (number, number)][-1]
        (mask,) = nan_gradients(look.logits, [last_weights])
    arrange = look.layouts.of_tokens(number)
    if arrange is None or mask is None:
        raise ValueError(
            f"Expected a transformer whose tokens stand for patches of the image, got {number} tokens for images of "
            f"{tuple(images.shape[2:])}. Explain it with a gradient method."
        )
    return arrange, mask.isnan().reshape(-1, number, number).any(dim=2).any(dim=0)


@dataclass(frozen=True)
class _Layer:
    """A layer that ran, its output for one image, and the callable that makes feature maps of it, or None."""

    name: str
    module: nn.Module
    output: Tensor
    arrange: Arrange | None


@dataclass(frozen=True)
class _Look:
    """One forward pass of one image: the layers in the order they finish, the layouts of outputs, and the logits."""

    layers: list[_Layer]
    layouts: Layouts
    logits: Tensor


def _look(model: nn.Module, images: Tensor, forward: Forward | None) -> _Look:
    """Run the model on the first image, and return what is seen of its layers."""
    check_any(images)
    run = forward_of(model, forward)
    x = model_input(model, images[:1]).clone().requires_grad_()
    with captured_outputs(model) as outputs:
        logits = connected_logits(run, x, torch.zeros(1, dtype=torch.int64, device=x.device), restart=outputs.clear)
    inner_ids = {id(part) for m in model.modules() if _is_attention(m) for part in m.modules() if part is not m}
    look = _Look([], Layouts(x), logits)
    for name, module, output in outputs:
        arrange = None if id(module) in inner_ids else look.layouts.arrange(module, output)
        look.layers.append(_Layer(name, module, output, arrange))
    return look


def _embeds(module: nn.Module, tokens: Tensor, output: Tensor) -> bool:
    if not isinstance(module, nn.Embedding) or output.shape[:-1] != tokens.shape:
        return False
    return bool((tokens < module.num_embeddings).all()) and torch.equal(module.weight[tokens], output)


def _is_passive(module: nn.Module) -> bool:
    return any(word in type(module).__name__ for word in _PASSIVE)


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _positions(gradient: Tensor) -> int:
    """Return the number of positions of a map at which some channel is NaN."""
    return int(gradient.isnan().flatten(2).any(dim=1).sum())


def _name_list(layers: list[_Layer]) -> str:
    return ", ".join(f"{layer.name} {tuple(layer.output.shape)}" for layer in layers[-_LISTED:] if layer.name) or "none"
