"""Look at a model and leave no trace: the only part that changes modes, hooks a layer or switches gradients on."""

from dynalens.observation.calls import captured_calls, is_compiled
from dynalens.observation.layers import (
    Capturing,
    captured_output,
    captured_outputs,
    layers_by_name,
    module_named,
    out_of_place,
    replaced_output,
    unwrapped,
)
from dynalens.observation.looking import seeded, undisturbed
from dynalens.observation.models import floating_dtype, is_tokens, two_class_logits

__all__ = [
    "Capturing",
    "captured_calls",
    "captured_output",
    "captured_outputs",
    "floating_dtype",
    "is_compiled",
    "is_tokens",
    "layers_by_name",
    "module_named",
    "out_of_place",
    "replaced_output",
    "seeded",
    "two_class_logits",
    "undisturbed",
    "unwrapped",
]
