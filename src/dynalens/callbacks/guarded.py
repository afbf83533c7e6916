"""What monitors that look at the model share: how logits are got, and how a failure ends."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor

from dynalens.attribution import find_forward


class GuardedPictures:
    """The part of a monitor that runs the model; what it reads is the monitor's."""

    guarded: ClassVar[str] = "Pictures"
    """What is switched off."""
    forward: Callable[[Any, Tensor], Tensor] | None
    on_error: str
    _pictures: Any

    @contextmanager
    def _or_switched_off(self) -> Iterator[None]:
        """What fails is said once; training goes on unless the user wants it to raise."""
        try:
            yield
        except Exception as error:
            self._pictures = None
            if self.on_error == "raise":
                raise
            warnings.warn(
                f"{self.guarded} are switched off, training goes on: {type(error).__name__}: {error}", stacklevel=4
            )

    def _forward(self, pl_module: Any, images: Tensor) -> Callable[[Tensor], Tensor]:
        return functools.partial(self.forward, pl_module) if self.forward else find_forward(pl_module, images)
