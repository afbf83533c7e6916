"""What callbacks have in common that a Trainer may have several of."""

import functools

from dynalens.host import CallbackBase


class NamedCallback(CallbackBase):
    """A callback whose state in a checkpoint is told from that of others of its class by its name."""

    name: str | None

    @functools.cached_property  # Lightning asks for it at every hook
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return self._generate_state_key(name=self.name)
