"""How much each epoch counts in the weighted means; nothing but numbers, so that reading a record needs no torch."""

GROWTH = 10
"""Epochs over which the weight grows; from 8 to 15 the order is the same within .3 points.

``docs/results/constants.md`` has the curves of all constants of this file.
"""

TOKEN_GROWTH = 20
"""The same of tokens: the largest loss of a sentence tells of a wrong tag only once its other tags are learned.

After 20 epochs 15 is .7 points worse and 10 is 1.8, after 150 they are .3 and .5 worse."""


def epoch_weight(epoch: int, error: float) -> float:
    """Return the weight of an epoch in the weighted means of the record, such as ``weighted_margin``.

    The weight is min(t + 1, 10)^3 * e^2, where t is the number of the epoch, from 0, and e is the training error in it:
    the fraction of presentations whose prediction was not the given label. The first epochs count little because the
    network knows nothing yet. Late epochs count little once the network has memorised the labels, because e is then
    near 0. The first factor stops growing after ten epochs, so that many late epochs do not outweigh the earlier ones.

    Args:
        epoch: Number of the epoch, from 0.
        error: Training error of the epoch, in [0, 1].

    Example:
        >>> epoch_weight(0, 0.5), epoch_weight(3, 0.25), epoch_weight(9, 0.0)
        (0.25, 4.0, 0.0)
        >>> epoch_weight(9, 0.5), epoch_weight(30, 0.5)
        (250.0, 250.0)
    """
    return float(min(epoch + 1, GROWTH) ** 3 * error**2)


def unit_weight(epoch: int, *, growth: int = GROWTH) -> float:
    """Return the weight of an epoch if samples have several labels, tokens or pixels.

    The weight is min(t + 1, growth)^3, where t is the number of the epoch, from 0. The training error is no factor,
    because some unit of most samples is contradicted until the end. The weight stops growing, so that the epochs
    before labels were learned by heart still count (``docs/results/constants.md`` compares other weights).

    Args:
        epoch: Number of the epoch, from 0.
        growth: Number of epochs after which the weight stops growing.

    Example:
        >>> unit_weight(0), unit_weight(3), unit_weight(9), unit_weight(30)
        (1.0, 64.0, 1000.0, 1000.0)
        >>> unit_weight(30, growth=TOKEN_GROWTH)
        8000.0
    """
    return float(min(epoch + 1, growth) ** 3)


def number_weight(epoch: int, *, error: float, constant_error: float) -> float:
    """Return the weight of an epoch in the weighted means of a regression.

    The weight is min(t + 1, 10) * min(e, c^2 / e)^2, where t is the number of the epoch, from 0, e is the mean absolute
    residual in it, and c is that of predicting the median of the targets for each sample. Late epochs count little once
    the network has learned the targets by heart, because e is then near 0. An epoch in which the network predicts worse
    than the median counts less the larger e is: the network has not even learned how large the targets are. If all
    targets are equal, so that c is 0, the weight is min(t + 1, 10) * e^2.

    Args:
        epoch: Number of the epoch, from 0.
        error: e, at least 0.
        constant_error: c, at least 0, in the same unit.

    Example:
        >>> number_weight(0, error=1.0, constant_error=2.0), number_weight(30, error=1.0, constant_error=2.0)
        (1.0, 10.0)
        >>> number_weight(1, error=4.0, constant_error=2.0)  # 2 (2^2 / 4)^2
        2.0
    """
    usual_error = constant_error**2 / error if 0 < constant_error < error else error
    return float(min(epoch + 1, GROWTH) * usual_error**2)
