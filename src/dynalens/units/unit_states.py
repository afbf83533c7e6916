"""Which tokens or pixels of a sample are right at a presentation, as few numbers: what forgetting in sum is told by."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.units.kinds import DIGITS, FOLLOWED, STATES


def packed_states(margins: Tensor, loss_mask: Tensor) -> Tensor:
    """Return whether each unit is right, and by how many units each one that is followed stands for.

    Up to 512 units, all are followed; of more, 512 places that were drawn once for that number of units. A state is 0
    where a unit does not count, 1 where it is contradicted and 2 where it is right; 15 of them are the digits, base 3,
    of one number, the first one lowest. Does not wait.

    Args:
        margins: Shape ``(N, U)``.
        loss_mask: Shape ``(N, U)``, bool.

    Returns:
        Shape ``(N, 36)``, float32.

    Example:
        >>> packed = packed_states(torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[True, True, False]]))
        >>> packed[0, :3].tolist()  # each stands for itself; 2 + 1 * 3; no further unit
        [1.0, 5.0, 0.0]
    """
    count = margins.shape[1]
    states = torch.where(loss_mask, 1 + (margins > 0).float(), 0.0)
    if count > FOLLOWED:
        states = states[:, drawn_places(count, margins.device)]
    powers = 3.0 ** torch.arange(DIGITS, device=margins.device)
    numbers = STATES.stop - STATES.start
    digits = F.pad(states, (0, DIGITS * numbers - states.shape[1])).view(len(states), numbers, DIGITS)
    share = states.new_full((len(states), 1), max(1.0, count / FOLLOWED))
    return torch.cat([share, (digits * powers).sum(dim=2)], dim=1)


@functools.lru_cache(maxsize=64)  # of sizes of masks
def drawn_places(count: int, device: torch.device) -> Tensor:
    """Return the numbers of the units that are followed: 512 of them, the same in every process and epoch."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:FOLLOWED].sort().values.to(device)
