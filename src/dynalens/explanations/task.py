"""What a network is given and what its outputs mean, as training steps showed it."""

from dataclasses import dataclass, field

from dynalens.capture import Network, View


@dataclass
class Task:
    """What is known of the task that a network is trained on.

    Attributes:
        independent: Whether each logit is that of a label that is given or not, independent of the others.
        numbers: Whether the outputs are those of a regression, which are no logits.
        outputs: Number of outputs of a regression; None if it is not known.
        shift: Number of positions by which the logits for a token come earlier than the token.
        padding: The token that pads sequences; None if it is not known.
        network: What training steps showed of the network that gives the logits.
        form: Which view of the batch's inputs the network is given; None: the inputs as they are.

    Example:
        >>> Task(numbers=True).has_classes, Task().has_classes
        (False, True)
    """

    independent: bool = False
    numbers: bool = False
    outputs: int | None = None
    shift: int = 0
    padding: int | None = None
    network: Network = field(default_factory=Network)
    form: View | None = None

    @property
    def has_classes(self) -> bool:
        """Whether each sample has one class."""
        return not self.independent and not self.numbers
