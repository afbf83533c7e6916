"""How often the pictures of a training are drawn: a long training changes slowly, and nobody looks at all of them."""

from collections.abc import Callable

OFTEN = 10
"""Number of logged epochs whose pictures are all drawn. After that, each second one is drawn up to 20, each third up
to 30, and so on: 27 of 300 epochs. With both callbacks on 200 digits, the event file then grows by .08 MB per
epoch."""


class PicturePace:
    """Draws the pictures of an epoch, or keeps the function that draws them in case they are the last.

    Example:
        >>> pace, drawn = PicturePace(), []
        >>> for epoch in range(24):
        ...     _ = pace.offer(lambda epoch=epoch: drawn.append(epoch))
        >>> pace.finish()  # the last is always drawn
        >>> drawn[8:]
        [8, 9, 10, 12, 14, 16, 18, 21, 23]
    """

    def __init__(self) -> None:
        self._number = 0
        self._last_draw: Callable[[], None] | None = None

    def offer(self, draw: Callable[[], None], *, in_budget: bool = True) -> bool:
        """Call ``draw`` now if the pictures of this epoch are due.

        Otherwise it is called at the end if no others come later.

        Args:
            draw: Function that draws the pictures.
            in_budget: Whether there is time to draw now.

        Returns:
            Whether it was called.
        """
        is_due = in_budget and self._number % (1 + self._number // OFTEN) == 0
        self._number += 1
        self._last_draw = None if is_due else draw
        if is_due:
            draw()
        return is_due

    def finish(self) -> None:
        """Draw the last pictures, unless they are drawn already."""
        draw, self._last_draw = self._last_draw, None
        if draw is not None:
            draw()
