"""How much room the mean probabilities of all classes may take."""

_GIB = 2**30


def probability_room(mean_probabilities: bool | float) -> float:
    """Return the bytes that N x K float32 may take: 0 without, 1 GiB for True, that many GiB for a number.

    Raises:
        ValueError: If the number is negative or NaN.

    Example:
        >>> probability_room(False), probability_room(True), probability_room(0.5)
        (0.0, 1073741824.0, 536870912.0)
    """
    if not mean_probabilities >= 0:
        raise ValueError(
            f"Expected `mean_probabilities` to be True, False or a positive number of GiB, got {mean_probabilities}. "
            "Pass the room that the probabilities may take."
        )
    return float(mean_probabilities) * _GIB


def check_probabilities(room: float, rows: int, classes: int, known_classes: int = 0) -> int:
    """Return the number of classes, if the probabilities of that many rows fit.

    Args:
        room: Bytes that they may take.
        rows: Samples of the dataset, or presentations of the epoch where these are more.
        classes: Number K of classes in this batch.
        known_classes: The same of the batches before; 0 if this is the first.

    Raises:
        ValueError: If they do not fit, or K changed.
    """
    if known_classes not in (0, classes):
        raise ValueError(
            f"Expected `logits` of {known_classes} classes, as in the steps before, got {classes}. Means of "
            "probabilities need the same classes in each step: train without `mean_probabilities`."
        )
    if 4 * rows * classes > room:
        gibibytes = 4 * rows * classes / _GIB
        raise ValueError(
            f"Expected `mean_probabilities` to fit {room / _GIB:g} GiB, got {rows:,} x {classes:,} float32, "
            f"{gibibytes:.3g} GiB. Pass `mean_probabilities={_rounded_up(gibibytes)}` if device and host each have "
            "one and a half times as many GiB free, or train without it."
        )
    return classes


def _rounded_up(gib: float) -> float:
    return int(10 * gib + 1) / 10
