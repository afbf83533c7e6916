"""Why this class and not that one."""

from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice
from dynalens.attribution.methods import BUILT_IN, CLASSLESS


def check_contrast(method: str, *, argument: str = "contrast") -> None:
    """Raise a ValueError unless this names a method that knows classes."""
    check_choice(argument, method, [name for name in BUILT_IN if name not in CLASSLESS])


def contrast(
    model: nn.Module,
    images: Tensor,
    class_a: Tensor | int,
    class_b: Tensor | int,
    *,
    method: str = "saliency",
    **arguments: Any,
) -> Tensor:
    """Return a map of the difference of two logits: which pixels speak for class a and against class b.

    It is the map of :math:`z_a - z_b`. If a is the predicted class and b the given label, it shows why the model
    disagrees with the label.

    Args:
        model: This and all arguments that are not listed here: see :func:`saliency`.
        class_a: Shape ``(N,)``, int64, or one class for all images.
        class_b: The same for the other class.
        method: Name of a built-in method. "attention_rollout" is refused, because its map is the same for all classes.
        arguments: Arguments of the method, such as ``samples=``, ``target_layer=`` or ``forward=``.

    Returns:
        What the method returns.

    Raises:
        ValueError: If the method is unknown, and whatever the method raises.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> contrast(model, torch.zeros(1, 1, 1, 2), 0, 1)
        tensor([[[[ 1., -5.]]]])
    """
    check_contrast(method, argument="method")
    classes = [torch.as_tensor(number, device=images.device).expand(len(images)) for number in (class_a, class_b)]
    return BUILT_IN[method](model, images, torch.stack(classes, dim=1), **arguments)
