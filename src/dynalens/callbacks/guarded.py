"""What monitors that look at the model share: how logits are got, and how a failure ends."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from torch import Tensor

from dynalens.attribution import find_forward


@contextmanager
def switched_off_on_error(part: str, switch_off: Callable[[], None], on_error: str) -> Iterator[None]:
    """Switch a part of a monitor off when the body fails, and say so, or raise where ``on_error`` is "raise"."""
    try:
        yield
    except Exception as error:
        switch_off()
        if on_error == "raise":
            raise
        warnings.warn(f"{part} are switched off, training goes on: {type(error).__name__}: {error}", stacklevel=4)


class GuardedPictures:
    """The part of a monitor that runs the model; what it reads is the monitor's."""

    guarded: ClassVar[str] = "Pictures"
    """What is switched off."""
    forward: Callable[[Any, Tensor], Tensor] | None
    on_error: str
    _pictures: Any

    def _or_switched_off(self) -> AbstractContextManager[None]:
        """What fails is said once; training goes on unless the user wants it to raise."""

        def switch_off() -> None:
            self._pictures = None

        return switched_off_on_error(self.guarded, switch_off, self.on_error)

    def _forward(self, pl_module: Any, images: Tensor) -> Callable[[Tensor], Tensor]:
        return functools.partial(self.forward, pl_module) if self.forward else find_forward(pl_module, images)
