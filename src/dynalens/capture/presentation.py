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
    """

    logits: Tensor
    targets: Tensor
    source: str
    given: Tensor
    units: UnitPresentation | None = None
    of_layer: bool = False
    nodes: tuple[Node, ...] = ()

    def chose_rows(self) -> bool:
        """Return whether the step chose or ordered rows of its logits, as far as their graph tells."""
        return chooses_rows(self.nodes)
