"""Look at a model and leave no trace. No other part sets modes, hooks layers or switches gradients on."""

from dynalens.observation.calls import captured_calls, has_compiled_functions, is_compiled
from dynalens.observation.channels import Channels, are_last, channels_first, channels_last, own_channels
from dynalens.observation.graph import nodes_behind, results_behind
from dynalens.observation.layer_calls import LayerCall, LayerCalls, layer_calls
from dynalens.observation.layers import (
    captured_output,
    captured_outputs,
    forward_of,
    layers_by_name,
    module_named,
    out_of_place,
    replaced_output,
    unwrap,
)
from dynalens.observation.models import (
    LogitsModule,
    checked_logits,
    device_of,
    floating_dtype,
    is_tokens,
    logits_in,
    named_logits,
    two_class_logits,
    unit_logits_in,
)
from dynalens.observation.undisturbed_pass import gradients_throughout, seeded, undisturbed

__all__ = [
    "Channels",
    "LayerCall",
    "LayerCalls",
    "LogitsModule",
    "are_last",
    "captured_calls",
    "captured_output",
    "captured_outputs",
    "channels_first",
    "channels_last",
    "checked_logits",
    "device_of",
    "floating_dtype",
    "forward_of",
    "gradients_throughout",
    "has_compiled_functions",
    "is_compiled",
    "is_tokens",
    "layer_calls",
    "layers_by_name",
    "logits_in",
    "module_named",
    "named_logits",
    "nodes_behind",
    "out_of_place",
    "own_channels",
    "replaced_output",
    "results_behind",
    "seeded",
    "two_class_logits",
    "undisturbed",
    "unit_logits_in",
    "unwrap",
]
