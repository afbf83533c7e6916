"""How much each epoch counts in the weighted means; nothing but numbers, so that reading a record needs no torch."""

GROWTH = 10
"""Epochs over which the weight grows; from 8 to 15 the order is the same within .3 points (``docs/results.md``)."""

TOKEN_GROWTH = 20
"""The same of tokens: the largest loss of a sentence tells of a wrong tag only once its other tags are learned.

After 20 epochs 15 is .7 points worse and 10 is 1.8, after 150 they are .3 and .5 worse (``docs/results.md``)."""


def epoch_weight(epoch: int, error: float) -> float:
    """Return how much the presentations of an epoch tell of labels while nothing else is known of the run.

    min(t + 1, 10)^3 * e^2 with t the epoch from 0 and e the training error on the given labels in it. The first epochs
    count little because the network knows nothing yet. Late ones count little once it has memorised the labels, because
    e then goes to 0. The growth ends after ten epochs, so that many late epochs do not outweigh those before.

    Example:
        >>> epoch_weight(0, 0.5), epoch_weight(3, 0.25), epoch_weight(9, 0.0)
        (0.25, 4.0, 0.0)
        >>> epoch_weight(9, 0.5), epoch_weight(30, 0.5)
        (250.0, 250.0)
    """
    return float(min(epoch + 1, GROWTH) ** 3 * error**2)


def unit_weight(epoch: int, *, growth: int = GROWTH, error: float = 1.0) -> float:
    """Return how much epoch t, from 0, counts where a sample has several labels, tokens, pixels or numbers.

    min(t + 1, growth)^3 * e^2, as :func:`epoch_weight`. The error e is that of a regression, whose order is the same
    within .7 points without it and with e until late epochs have learned the targets by heart. Of labels, tokens and
    pixels e is 1, as some unit of most samples is contradicted to the end. The weight stops growing, so that the epochs
    before labels were learned by heart still count (``docs/results.md`` compares other weights).

    Args:
        epoch: From 0.
        growth: Epochs over which it grows.
        error: Of the epoch.

    Example:
        >>> unit_weight(0), unit_weight(3), unit_weight(9), unit_weight(30)
        (1.0, 64.0, 1000.0, 1000.0)
        >>> unit_weight(30, growth=TOKEN_GROWTH), unit_weight(1, error=0.5)
        (8000.0, 2.0)
    """
    return float(min(epoch + 1, growth) ** 3 * error**2)
