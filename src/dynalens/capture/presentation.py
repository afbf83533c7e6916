"""What a training step computed its loss with, however it was found."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynalens.capture.graph import Activation, Node, chooses_rows, joins_rows
from dynalens.capture.loss_tap import LossCall
from dynalens.dynamics import IGNORED
from dynalens.units import TARGETS, UnitPresentation


class Presentation(NamedTuple):
    """Logits and targets of a training step.

    Attributes:
        logits: Shape ``(N, K)``.
        targets: Shape ``(N,)``, int64.
        source: Where logits and targets were found, in words.
        step_targets: The targets in the form that the step has.
        units: Where each sample has several units; ``logits`` and ``targets`` are then those of its worst one.
        of_layer: Whether the logits are the output of a layer and the targets those of the batch, so that no loss shows
            both together.
        nodes: Nodes of autograd's graph that gave the logits, as far as they are known.
        has_other_losses: Whether the step had other losses, and this one was chosen because it has the labels of the
            batch.
        loss_mask: Of units, in the shape of ``step_targets``, bool: which the step did not leave out after its loss;
            None: all.
    """

    logits: Tensor
    targets: Tensor
    source: str
    step_targets: Tensor
    units: UnitPresentation | None = None
    of_layer: bool = False
    nodes: tuple[Node, ...] = ()
    loss_mask: Tensor | None = None
    has_other_losses: bool = False

    def counted_targets(self) -> Tensor:
        """Return the targets of all units of the samples, negative or NaN for those that do not count.

        They are as the step has them, but all numbers of a regression are side by side.
        """
        targets = self.step_targets
        if self.units is not None and self.units.kind.name == TARGETS and self.units.unit_targets is not None:
            return self.units.unit_targets
        if self.loss_mask is None:
            return targets
        targets = targets if targets.is_floating_point() else targets.long()
        return targets.masked_fill(~self.loss_mask, IGNORED)

    def chose_rows(self) -> bool:
        """Return whether the step selected or reordered rows of its logits, according to their graph."""
        return chooses_rows(self.nodes)

    def joined_rows(self) -> bool:
        """Return whether the step put the logits of several views one after another, according to their graph."""
        return joins_rows(self.nodes)


def nodes_of_logits(outputs: Any, calls: Sequence[LossCall], activations: Sequence[Activation]) -> tuple[Node, ...]:
    """Return the nodes of the graph that gave the logits that the step returned or that its losses were given.

    Args:
        outputs: What the step returned.
        calls: Calls of losses.
        activations: Probabilities on the way to a loss of one's own.
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if isinstance(logits, Tensor):
        if logits.grad_fn is not None:
            return (logits.grad_fn,)
        calls = [call for call in calls if call.logits.data_ptr() == logits.data_ptr()] or calls
    return (*[call.logits.grad_fn for call in calls], *[activation.node for activation in activations])


def presentation_of_units(
    units: tuple[UnitPresentation, Tensor], source: str, targets: Tensor, loss_mask: Tensor | None
) -> Presentation:
    """Return a presentation of samples with several units.

    Args:
        units: What these show, and the targets of the samples, ``(N, ...)``.
        source: Where they were found.
        targets: As the step had them, maybe flat.
        loss_mask: Which of them have a part in the loss.
    """
    presentation, unit_targets = units
    kind_in_words = f"{presentation.kind.labels or 'several'} {presentation.kind.name} for each sample"
    # Rows of the batch are followed to the step's own tensor, where that has one for each.
    if len(targets) == len(unit_targets):
        unit_targets = targets
    elif targets.numel() == unit_targets.numel():
        unit_targets = targets.reshape(unit_targets.shape)
    has_mask = loss_mask is not None and loss_mask.numel() == unit_targets.numel()
    mask = loss_mask.reshape(unit_targets.shape) if loss_mask is not None and has_mask else None
    return Presentation(
        presentation.logits,
        presentation.targets,
        f"{source} ({kind_in_words})",
        unit_targets,
        presentation,
        loss_mask=mask,
    )


@functools.lru_cache(maxsize=64)  # the same text at every step
def source_of_loss(name: str, shape: torch.Size, *, logarithm: bool) -> str:
    """Return where the logits and targets of a loss were found, in words."""
    kind = "log-probabilities, whose margins are those of the logits: " if name == "nll_loss" else ""
    kind = "logarithm of the probabilities, no log-probabilities, that were the " if logarithm else kind
    return f"logits: {kind}input of {name} {list(shape)}; targets: its argument"
