"""How attention carries information from patches to what a transformer's head reads."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.layers import token_layout
from dynalens.attribution.passes import (
    Forward,
    check_finite,
    check_images,
    connected,
    gradients,
    model_input,
    pass_size,
    scores_of,
)
from dynalens.observation import undisturbed, unwrapped
from dynalens.overrides import captured_attention


def attention_rollout(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the attention of all layers multiplied out, from the tokens that reach the head to the patches.

    :math:`\prod_l (W_l + I) / 2`, the last layer on the left, with the attention :math:`W_l` of layer l averaged over
    its heads. Rows are those of the tokens that the head reads, their mean where it reads several: the class token, or
    all that are averaged. It knows no class.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Args:
        model: A vision transformer. Attention is seen where ``scaled_dot_product_attention`` or a softmax is called: in
            models of torchvision, timm and transformers, but not in windows (Swin).
        images: Shape ``(N, C, H, W)``, floating. Not modified.
        targets: Not used; here so that all methods are called alike.
        forward: Callable(images) -> logits; default: ``model``.
        chunk_size: Images in one pass; default: 16, or 8 of more than 16,384 numbers each.

    Returns:
        Shape ``(N, h, w)``, float32, >= 0: the grid of the patches.

    Raises:
        ValueError: If the model has no attention over all of its tokens, or they fit no grid.

    Example:
        Half of the attention of one fifth comes from each patch, the other half is the shortcut's.

        >>> class OneLayer(torch.nn.Module):  # the head reads the class token, which attends evenly to all five
        ...     def forward(self, x):
        ...         tokens = torch.cat([x.new_zeros(len(x), 1, 1), x.flatten(1).unsqueeze(2)], dim=1)
        ...         mixed = torch.nn.functional.scaled_dot_product_attention(0 * tokens, tokens, tokens)
        ...         return mixed[:, 0] * torch.tensor([1.0, 0.0])
        >>> attention_rollout(OneLayer(), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        tensor([[[0.1000, 0.1000],
                 [0.1000, 0.1000]]])
    """
    classes = torch.zeros(len(images), dtype=torch.int64, device=images.device) if targets is None else targets

    def mix(attention: list[Tensor], scores: Tensor) -> list[Tensor]:
        heads = [_by_head(weights, len(scores)).mean(dim=1) for weights in attention]
        return [(weights + _identity(weights)) / 2 for weights in heads]

    return _rolled("attention_rollout", mix, model, images, classes, forward, chunk_size)


def gradient_rollout(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None, chunk_size: int | None = None
) -> Tensor:
    r"""Return the attention that raises the target's logit, multiplied out over the layers.

    :math:`\prod_l (I + \bar W_l)` with :math:`\bar W_l` the mean over heads of
    :math:`(\partial z_y / \partial W_l \odot W_l)^+`; else as :func:`attention_rollout`.

    Source: Chefer et al., "Generic Attention-model Explainability", ICCV 2021, equations 5 and 6.

    Args:
        model: See :func:`attention_rollout`, also for the arguments that are not named here.
        images: Shape ``(N, C, H, W)``.
        targets: Shape ``(N,)`` or ``(N, 2)``: see :func:`saliency`.

    Returns:
        As :func:`attention_rollout`.

    Example:
        The gradient for a patch's attention is its value; the attention is one fifth.

        >>> class OneLayer(torch.nn.Module):  # the head reads the class token, which attends evenly to all five
        ...     def forward(self, x):
        ...         tokens = torch.cat([x.new_zeros(len(x), 1, 1), x.flatten(1).unsqueeze(2)], dim=1)
        ...         mixed = torch.nn.functional.scaled_dot_product_attention(0 * tokens, tokens, tokens)
        ...         return mixed[:, 0] * torch.tensor([1.0, 0.0])
        >>> gradient_rollout(OneLayer(), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[0.2000, 0.4000],
                 [0.6000, 0.8000]]])
    """

    def mix(attention: list[Tensor], scores: Tensor) -> list[Tensor]:
        attention_gradients = gradients(scores, {f"attention {k}": weights for k, weights in enumerate(attention)})
        return [
            _by_head((gradient * weights).clamp(min=0), len(scores)).mean(dim=1) + _identity(weights)
            for gradient, weights in zip(attention_gradients, attention, strict=True)
        ]

    return _rolled("gradient_rollout", mix, model, images, targets, forward, chunk_size)


def _identity(weights: Tensor) -> Tensor:
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)


def _rolled(
    name: str,
    mix: Callable[[list[Tensor], Tensor], list[Tensor]],
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    forward: Forward | None,
    chunk_size: int | None,
) -> Tensor:
    check_images(images, targets)
    check_positive(chunk_size=chunk_size)
    run = forward if forward is not None else unwrapped(model)
    size = pass_size(images, chunk_size)
    parts = []
    with undisturbed(model):
        x = model_input(model, images)
        for x_part, y_part in zip(torch.split(x, size), torch.split(targets, size), strict=True):
            with captured_attention() as attention:
                logits = connected(run, x_part.clone().requires_grad_(), y_part, again=attention.clear)
                scores = scores_of(logits.float(), y_part)
            layers = mix(_self_attention(attention, len(x_part)), scores)
            rolled = layers[0].detach().float()
            for layer in layers[1:]:
                rolled = layer.detach().float() @ rolled
            parts.append(rolled)
        rolled = torch.cat(parts)
        arrange, is_read = token_layout(model, x, rolled.shape[-1], forward=forward)
        relevance = rolled[:, is_read].mean(dim=1)
        return check_finite(name, arrange(relevance.unsqueeze(2)).squeeze(1))


def _self_attention(attention: list[Tensor], images: int) -> list[Tensor]:
    """Return the weights of attention among the tokens of each image, (N, heads, T, T) or (N * heads, T, T)."""
    square = [weights for weights in attention if weights.shape[-1] == weights.shape[-2]]
    tokens = {weights.shape[-1] for weights in square}
    if len(tokens) != 1 or any(len(w) != images if w.ndim == 4 else len(w) % images for w in square):
        raise ValueError(
            f"Expected attention of shape ({images}, heads, tokens, tokens), the same tokens in each layer, got "
            f"{[tuple(weights.shape) for weights in attention[:4]] or 'none'}. Rollouts are defined for such "
            "transformers only: use a gradient method or `grad_cam`."
        )
    return square


def _by_head(weights: Tensor, images: int) -> Tensor:
    return weights if weights.ndim == 4 else weights.view(images, -1, *weights.shape[1:])
