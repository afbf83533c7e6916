"""What loggers show of a run: scalars and pictures of a record, of a layer, and where they go.

`dynamics_log` shows a record at the end of each epoch, with `dynamics_pictures` (charts and the gallery of suspects),
`noise_curve` (the estimated noise rate) and `projector` (features); `layer_log` shows what a layer computes,
with `layer_pictures`, `concepts` which concepts it has, and `surrogates` what stands for a network. `settings` and
`layer_settings` say what is asked for, `sinks` where pictures go.
"""

from dynalens.logs.concepts import ConceptLog, ConceptSettings, dissection_sheet, read_images
from dynalens.logs.dynamics_log import DynamicsLog, GallerySource
from dynalens.logs.layer_log import LayerLog
from dynalens.logs.layer_pictures import LayerPictures
from dynalens.logs.layer_settings import LayerSettings, unit_numbers
from dynalens.logs.settings import LogSettings
from dynalens.logs.sinks import show_as_trained, sink_of, switched_off_on_error
from dynalens.logs.surrogates import normlime_sheet, tree_picture

__all__ = [
    "ConceptLog",
    "ConceptSettings",
    "DynamicsLog",
    "GallerySource",
    "LayerLog",
    "LayerPictures",
    "LayerSettings",
    "LogSettings",
    "dissection_sheet",
    "normlime_sheet",
    "read_images",
    "show_as_trained",
    "sink_of",
    "switched_off_on_error",
    "tree_picture",
    "unit_numbers",
]
