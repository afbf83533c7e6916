"""What a training step computed with, whatever way tells it."""

from typing import NamedTuple

from torch import Tensor

from dynalens.capture.graph import Node, chooses_rows
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
        nodes: Those of autograd's graph that gave the logits, where rows of the targets were chosen or ordered.
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

    def chose_rows(self) -> bool:
        """Return whether the step chose or ordered rows of its logits, as far as their graph tells."""
        return chooses_rows(self.nodes)


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
