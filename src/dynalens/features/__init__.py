"""What a layer computes: features of each sample, filters, feature maps, and images that activate its channels."""

from dynalens.features.feature_rows import FeatureRows
from dynalens.features.maps import channel_activations, existing_channels, feature_maps, layer_output
from dynalens.features.maximisation import maximise_activation
from dynalens.features.pooling import position_mean
from dynalens.features.top_inputs import TopInputs
from dynalens.features.weights import first_layer_weights

__all__ = [
    "FeatureRows",
    "TopInputs",
    "channel_activations",
    "existing_channels",
    "feature_maps",
    "first_layer_weights",
    "layer_output",
    "maximise_activation",
    "position_mean",
]
