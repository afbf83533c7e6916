"""What a look at a model may not change."""

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def bits(tensor: Tensor) -> str:
    """Return a digest of the bits of a tensor: lists of the numbers of a ResNet take ten seconds."""
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything a look could change."""
    return {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad identities": [id(p.grad) for p in model.parameters()],
        "grads": [None if p.grad is None else bits(p.grad) for p in model.parameters()],
        "buffers": {name: (id(b), bits(b)) for name, b in model.named_buffers()},
        "absent buffers": [name for m in model.modules() for name, b in m._buffers.items() if b is None],
        "torch": bits(torch.get_rng_state()),
        # The position among the numbers, too: a draw that needs no new ones changes nothing else.
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
        "python": random.getstate(),
        "parameters": [bits(p) for p in model.parameters()],
        "hooks": [
            [len(getattr(module, f"_{kind}_hooks")) for kind in ("forward", "forward_pre", "backward", "backward_pre")]
            for module in model.modules()
        ],
        "attributes": [list(vars(module)) for module in model.modules()],
        "in place": [getattr(module, "inplace", None) for module in model.modules()],
        "gradients on": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }
