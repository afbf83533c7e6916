"""How attention carries information from patches to what a transformer's head reads."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.attribution.layers import token_layout
from dynalens.attribution.overrides import captured_attention
from dynalens.attribution.passes import Forward, check_finite, chunks, connected_logits, gradients, prepared, scores_of


def attention_rollout(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the attention rollout: how much each patch reaches the head through the attention of all layers.

    :math:`\prod_l (W_l + I) / 2`, with the last layer on the left, where :math:`W_l` is the attention matrix of layer l
    averaged over its heads and :math:`I`, the identity, stands for the shortcut around it. Of this product, the map is
    the row of the token that the head reads, usually the class token. If the head averages several tokens, it is the
    mean of their rows. The map is the same for all classes.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3.

    Args:
        model: A vision transformer. Attention is read from calls of ``scaled_dot_product_attention`` and softmax, as in
            models of torchvision, timm and transformers. Attention in windows (Swin), over channels (XCiT) or by a
            query that reads the tokens (CaiT) is not supported.
        images: Shape ``(N, C, H, W)``, floating. Not modified.
        targets: Not used. The argument is there so that all methods can be called alike.
        forward: Callable(images) that returns logits. Default: ``model``.
        chunk_size: Number of images in one pass. Default: 16, or 8 if an image has more than 16,384 numbers.

    Returns:
        Shape ``(N, h, w)``, float32, >= 0, where h x w is the grid of the patches.

    Raises:
        ValueError: If the model has no attention over all of its tokens, or the tokens fit no grid.

    Example:
        The head reads the class token, which attends to five tokens, one fifth each. A tenth comes from each patch,
        because the shortcut is the other half of the matrix.

        >>> class OneLayer(torch.nn.Module):
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

    return _on_the_grid("attention_rollout", _rollout_of(mix), model, images, classes, forward, chunk_size)


def gradient_rollout(
    model: nn.Module, images: Tensor, targets: Tensor, *, forward: Forward | None = None, chunk_size: int | None = None
) -> Tensor:
    r"""Return the gradient rollout: how much each patch reaches the head by attention that raises the target's logit.

    :math:`\prod_l (I + \bar W_l)`, where :math:`\bar W_l` is the mean over the heads of
    :math:`(\partial z_y / \partial W_l \odot W_l)^+`, :math:`W_l` is the attention of layer l, :math:`z_y` the logit of
    the target, and :math:`^+` replaces negative values by 0. The map is taken from the product as in
    :func:`attention_rollout`.

    Source: Chefer et al., "Generic Attention-model Explainability", ICCV 2021, equations 5 and 6.

    Args:
        model: This and all arguments that are not listed here: see :func:`attention_rollout`.
        images: Shape ``(N, C, H, W)``.
        targets: Shape ``(N,)`` or ``(N, 2)``, see :func:`saliency`.

    Returns:
        As :func:`attention_rollout`.

    Raises:
        ValueError: As for :func:`attention_rollout`.

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

    return _on_the_grid("gradient_rollout", _rollout_of(mix), model, images, targets, forward, chunk_size)


def transition_attention(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 20,
    start_layer: int | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return transition attention maps (TAM): attention as the transitions of a Markov chain, weighted by gradients.

    :math:`\bar W_l` is the attention of layer l averaged over its heads. The state S begins as :math:`\bar W_L`, the
    attention of the last layer, and becomes :math:`S \bar W_l + S` for l = L - 1, ..., s. In the end it is multiplied,
    element by element, by the mean over the heads of
    :math:`\bigl(\frac{1}{n}\sum_k \partial z_y / \partial W_L (\alpha_k x)\bigr)^+`, where :math:`x` is the image,
    :math:`z_y` the logit of the target, :math:`\alpha_k` are n numbers at equal distances from 0 to 1, and :math:`^+`
    replaces negative values by 0. The map is taken from the result as in :func:`attention_rollout`.

    It costs ``steps`` + 1 forward and ``steps`` backward passes.

    Source: Yuan, Li, Xiong, Cao, and Dou, "Explaining Information Flow Inside Vision Transformers Using Markov Chain",
    2021, and the authors' code.

    Args:
        model: This and all arguments that are not listed here: see :func:`attention_rollout`.
        images: Shape ``(N, C, H, W)``.
        targets: Shape ``(N,)`` or ``(N, 2)``, see :func:`saliency`.
        steps: Number n of gradients that are averaged.
        start_layer: Number s of the first layer that counts, from 0. Default: a third of the layers, as in the authors'
            code, which begins with 4 of 12.

    Returns:
        As :func:`attention_rollout`.

    Raises:
        ValueError: As for :func:`attention_rollout`, and if the model has no layer ``start_layer``.

    Example:
        The attention is one fifth; the gradient for a patch's attention is its value, half of it on average over the
        steps 0 and 1.

        >>> class OneLayer(torch.nn.Module):  # the head reads the class token, which attends evenly to all five
        ...     def forward(self, x):
        ...         tokens = torch.cat([x.new_zeros(len(x), 1, 1), x.flatten(1).unsqueeze(2)], dim=1)
        ...         mixed = torch.nn.functional.scaled_dot_product_attention(0 * tokens, tokens, tokens)
        ...         return mixed[:, 0] * torch.tensor([1.0, 0.0])
        >>> x, y = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([0])
        >>> transition_attention(OneLayer(), x, y, steps=2)
        tensor([[[0.1000, 0.2000],
                 [0.3000, 0.4000]]])
    """
    check_positive(steps=steps)

    def part(run: Forward, x: Tensor, classes: Tensor) -> Tensor:
        layers = [_by_head(weights.detach(), len(x)).float().mean(dim=1) for weights in _attention(run, x, classes)[0]]
        state = layers[-1]
        for layer in reversed(layers[_first_layer(start_layer, len(layers)) : -1]):
            state = state @ layer + state
        integral = torch.zeros((), device=x.device)
        for alpha in torch.linspace(0, 1, steps).tolist():
            attention, scores = _attention(run, alpha * x, classes)
            integral = integral + gradients(scores, {"the last attention": attention[-1]})[0].float() / steps
        return state * _by_head(integral.clamp(min=0), len(x)).mean(dim=1)

    return _on_the_grid("transition_attention", part, model, images, targets, forward, chunk_size)


def _first_layer(start_layer: int | None, layers: int) -> int:
    if start_layer is None:
        return layers // 3
    if not 0 <= start_layer < layers:
        raise ValueError(
            f"Expected `start_layer` to be one of the {layers} layers with attention, from 0, got {start_layer}. Pass "
            "a smaller number, or leave it out."
        )
    return start_layer


def _identity(weights: Tensor) -> Tensor:
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)


Part = Callable[[Forward, Tensor, Tensor], Tensor]
"""(run, images, targets) -> matrices (N, T, T): how much each token (row) takes from each other one (column)."""


def _rollout_of(mix: Callable[[list[Tensor], Tensor], list[Tensor]]) -> Part:
    """Return the product of one matrix for each layer, which ``mix`` makes of attention weights and scores."""

    def part(run: Forward, x: Tensor, targets: Tensor) -> Tensor:
        layers = mix(*_attention(run, x, targets))
        rollout = layers[0].detach().float()
        for layer in layers[1:]:
            rollout = layer.detach().float() @ rollout
        return rollout

    return part


def _attention(run: Forward, x: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the weights of each layer with their graph, and the scores (N,)."""
    with captured_attention() as attention:
        logits = connected_logits(run, x.clone().requires_grad_(), targets, restart=attention.clear)
        scores = scores_of(logits.float(), targets)
    return _self_attention(attention, len(x)), scores


def _on_the_grid(
    name: str,
    part: Part,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    forward: Forward | None,
    chunk_size: int | None,
) -> Tensor:
    """Return the mean row of the tokens that the head reads, on the grid of the patches: (N, h, w), float32.

    Args:
        name: Name of the method, for errors.
        part: Computes the matrices (N, T, T) whose rows are averaged.
        model: See :func:`attention_rollout`, also for the other arguments.
    """
    with prepared(model, images, targets, forward=forward, chunk_size=chunk_size) as (run, x):
        rollout = torch.cat([part(run, x_part, y_part) for x_part, y_part in chunks(x, targets, chunk_size)])
        arrange, is_read = token_layout(model, x, rollout.shape[-1], forward=forward)
        relevance = rollout[:, is_read].mean(dim=1)
        return check_finite(name, arrange(relevance.unsqueeze(2)).squeeze(1))


def _self_attention(attention: list[Tensor], images: int) -> list[Tensor]:
    """Return the weights of attention among the tokens of each image, (N, heads, T, T) or (N * heads, T, T)."""
    squares = {weights.shape[-1] for weights in attention if weights.shape[-1] == weights.shape[-2]}
    # Rows of tokens that are no attention choose something else for each token, such as experts.
    attention = [weights for weights in attention if weights.shape[-2] not in squares or weights.shape[-1] in squares]
    tokens = {size for weights in attention for size in weights.shape[-2:]}
    if len(tokens) != 1 or any(len(w) != images if w.ndim == 4 else len(w) % images for w in attention):
        shapes = list(dict.fromkeys(tuple(weights.shape) for weights in attention))
        raise ValueError(
            f"Expected attention of shape ({images}, heads, tokens, tokens), the same tokens in each layer, got "
            f"{shapes or 'none'}. Rollouts are defined for such transformers only: use a gradient method or `grad_cam`."
        )
    return attention


def _by_head(weights: Tensor, images: int) -> Tensor:
    """Return attention weights (N, heads, T, T) or (N * heads, T, T) in the first of these shapes."""
    return weights if weights.ndim == 4 else weights.view(images, -1, *weights.shape[1:])
