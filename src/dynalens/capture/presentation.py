"""What a training step computed with, whatever way tells it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dynalens.capture.graph import Activation, Node, chooses_rows
from dynalens.capture.loss_tap import LossCall
from dynalens.units import UnitPresentation


class Presentation(NamedTuple):
    """What a step computed with.

    Attributes:
        logits: Shape ``(N, K)``.
        targets: Shape ``(N,)``, int64.
        source: Where they were found.
        given: The targets as the step had them.
        units: Where each sample has several units; ``logits`` and ``targets`` are then those of its worst one.
        of_layer: Whether the logits are those of a layer and the targets those of the batch, and no loss joins them.
        nodes: Those of autograd's graph that gave the logits, as far as they are known.
        several: Whether the step had other losses, too, and these are of the one with the labels of the batch.
        counted: Of units, in the shape of ``given``, bool: which the step did not leave out after its loss; None: all.
    """

    logits: Tensor
    targets: Tensor
    source: str
    given: Tensor
    units: UnitPresentation | None = None
    of_layer: bool = False
    nodes: tuple[Node, ...] = ()
    counted: Tensor | None = None
    several: bool = False

    def chose_rows(self) -> bool:
        """Return whether the step chose or ordered rows of its logits, as far as their graph tells."""
        return chooses_rows(self.nodes)


def nodes_of_logits(outputs: Any, calls: Sequence[LossCall], activations: Sequence[Activation]) -> tuple[Node, ...]:
    """Return the nodes of the graph that gave the logits: those that a step returned, or those that losses were given.

    Args:
        outputs: What the step returned.
        calls: Those of losses.
        activations: Probabilities on the way to a loss of one's own.
    """
    returned = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if isinstance(returned, Tensor):
        if returned.grad_fn is not None:
            return (returned.grad_fn,)
        calls = [call for call in calls if call.logits.data_ptr() == returned.data_ptr()] or calls
    return (*[call.logits.grad_fn for call in calls], *[each.node for each in activations])


def presentation_of_units(
    units: tuple[UnitPresentation, Tensor], source: str, targets: Tensor, counted: Tensor | None
) -> Presentation:
    """Return a presentation of samples with several units.

    Args:
        units: What these show, and the targets of the samples, ``(N, ...)``.
        source: Where they were found.
        targets: As the step had them, maybe flat.
        counted: Which of them have a part in the loss.
    """
    shown, given = units
    which = f"{shown.kind.labels or 'several'} {shown.kind.name} for each sample"
    # Rows of the batch are followed to the step's own tensor, where that has one for each.
    if len(targets) == len(given):
        given = targets
    elif targets.numel() == given.numel():
        given = targets.reshape(given.shape)
    kept = None if counted is None or counted.numel() != given.numel() else counted.reshape(given.shape)
    return Presentation(shown.logits, shown.targets, f"{source} ({which})", given, shown, counted=kept)
