"""What the arguments of several callbacks, and all processes of a training, must be."""

import torch

from dynalens.host import Processes
from dynalens.identity import SampleIdentityError


def check_positive(**arguments: int) -> None:
    """Raise a ValueError that names the first argument below 1."""
    for argument, value in arguments.items():
        if value < 1:
            raise ValueError(f"Expected `{argument}` to be at least 1, got {value}. Pass a positive number.")


def check_audit(audit: int | None) -> int | None:
    """Return it; raise a ValueError unless it is None or a whole number of at least 1."""
    if audit is not None and (isinstance(audit, bool) or not isinstance(audit, int) or audit < 1):
        raise ValueError(f"Expected `audit` to be None or a whole number of at least 1, got {audit!r}. Pass 100, say.")
    return audit


def check_choice(argument: str, value: str, choices: tuple[str, str]) -> None:
    """Raise a ValueError if an argument is neither of two words."""
    if value not in choices:
        raise ValueError(
            f"Expected `{argument}` to be '{choices[0]}' or '{choices[1]}', got {value!r}. Choose one of them."
        )


def check_explained(*, suspects: int, max_overhead: float | None) -> None:
    """Raise a ValueError if so many suspects, or explanations for so long, make no sense."""
    if suspects < 0:
        raise ValueError(f"Expected `suspects` to be at least 0, got {suspects}. Pass 0 for none.")
    if max_overhead is not None and not max_overhead > 0:
        raise ValueError(f"Expected `max_overhead` to be above 0 or None, got {max_overhead}. Pass 0.1, say.")


def check_projector(every_n_epochs: int | None, features: str | None) -> None:
    """Raise a ValueError if there is nothing for the projector to show."""
    if every_n_epochs is None:
        return
    check_positive(projector_every_n_epochs=every_n_epochs)
    if features is None:
        raise ValueError(
            "Expected `features` to name a layer with `projector_every_n_epochs`, got None. Pass the dotted name "
            "of the layer before the last linear one."
        )


def check_same_length(processes: Processes, length: int) -> None:
    """Raise a SampleIdentityError, in every process, unless all have a dataset of this length."""
    lengths = {int(n) for n in torch.cat(processes.gather(torch.tensor([length])))}
    if len(lengths) > 1:
        raise SampleIdentityError(
            f"Expected the same training dataset in each process, got lengths {sorted(lengths)}. Give each "
            "of them the whole dataset and let the sampler share it out."
        )
