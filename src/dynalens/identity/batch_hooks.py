"""Whether a batch may change between the loader and the training step: by hooks of the module or its data."""

from collections.abc import Iterator
from typing import Any

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def has_batch_hooks(trainer: Any) -> bool:
    """Return whether the module or its data have hooks that may change a batch."""
    return any(_overridden(owner, name) for owner in _owners(trainer) for name in _HOOKS)


def _owners(trainer: Any) -> Iterator[Any]:
    yield trainer.lightning_module
    if getattr(trainer, "datamodule", None) is not None:
        yield trainer.datamodule


def _overridden(owner: Any, name: str) -> bool:
    hook = getattr(owner, name, None)
    return hook is not None and not getattr(hook, "__qualname__", "").startswith("DataHooks.")
