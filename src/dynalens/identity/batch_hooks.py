"""Whether a batch may change between the loader and the training step: by hooks of the module or its data."""

from typing import Any

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def has_batch_hooks(trainer: Any) -> bool:
    """Return whether the module or its data have hooks that may change a batch."""
    owners = trainer.lightning_module, getattr(trainer, "datamodule", None)
    hooks = (getattr(owner, name, None) for owner in owners for name in _HOOKS)
    return any(hook is not None and not getattr(hook, "__qualname__", "").startswith("DataHooks.") for hook in hooks)
