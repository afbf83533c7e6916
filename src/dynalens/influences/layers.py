"""The model and its loss in the form that Captum's ``TracInCP`` takes, for the weights of any layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.influences.last_layer import LastLayer, Loss
from dynalens.observation import module_named

Layers = Sequence[str] | str
WEIGHTS = "weights"
"""Name of the submodule that holds the weights. Captum finds them by it."""


class LayerWeights(nn.Module):
    """A module that returns the logits, and has a submodule with the chosen weights, each of them once.

    Args:
        logits: The module that returns the logits.
        weights: The weights that count.
    """

    def __init__(self, logits: LastLayer, weights: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.logits, self.weights = logits, nn.ParameterList(weights)

    def forward(self, inputs: Any) -> Tensor:
        """Return the logits (N, K)."""
        logits: Tensor = self.logits(inputs)
        return logits


def trained_weights(logits: LastLayer, layers: Layers, inputs: Any) -> list[nn.Parameter]:
    """Return the trained weights of these layers on which the logits depend; "all" stands for all layers.

    Raises:
        ValueError: If there is no such layer, or a layer has no such weights.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    modules = {name: _module(logits.inner, name) for name in names}
    all_weights = [weight for weight in logits.inner.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(logits(inputs).sum(), all_weights, allow_unused=True) if all_weights else ()
    weight_ids = {id(weight) for weight, gradient in zip(all_weights, gradients, strict=True) if gradient is not None}
    idle_layers = [
        name for name, layer in modules.items() if not any(id(weight) in weight_ids for weight in layer.parameters())
    ]
    if idle_layers or not names:
        raise ValueError(
            f"Expected `layers` to name layers with trained weights on which the logits depend, or to be 'all', got "
            f"{', '.join(idle_layers) or 'none'}. Frozen layers have no influence: name others."
        )
    weights = {
        id(weight): weight for layer in modules.values() for weight in layer.parameters() if id(weight) in weight_ids
    }
    return list(weights.values())


def loss_of_each(loss: Loss) -> Loss:
    """Return a loss that has one value for each sample, (N,), from a loss that sums over samples."""

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        pairs = zip(torch.split(logits, 1), torch.split(labels, 1), strict=True)
        return torch.stack([loss(z, label) for z, label in pairs])

    return losses


def _module(model: nn.Module, name: str) -> nn.Module:
    return model if name == "all" else module_named(model, name, argument="layers")
