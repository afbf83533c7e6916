"""Draw charts of a record, maps over their inputs, film strips and galleries, as JPEG and PNG bytes."""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred
from dynalens.pictures.charts import (
    accuracy_curve,
    data_map,
    first_learned,
    forgetting_events,
    margins,
    training_data_analysis,
)
from dynalens.pictures.class_pairs import class_pairs, doubted_labels
from dynalens.pictures.drawing import class_name, jpeg_bytes, png_bytes
from dynalens.pictures.film import FilmStrip
from dynalens.pictures.gallery import Suspect, suspects_gallery, suspects_table
from dynalens.pictures.masks import AREAS, IGNORED_AREA, beside_areas
from dynalens.pictures.overlays import Shown, input_cell, map_cell, overlay, shown_part, signal_cell, words_cell
from dynalens.pictures.pace import PicturePace
from dynalens.pictures.relatives import Relative, relatives_sheet
from dynalens.pictures.sheets import ExplanationRow, curve_chart, explanation_sheet
from dynalens.pictures.words import Decode, Sentences, excerpt, numbers_text

if TYPE_CHECKING:
    from dynalens.pictures.copies import PassingCopies, by_shape
    from dynalens.pictures.inputs import Normalisation, find_normalisation, shown_inputs, to_rgb
    from dynalens.pictures.layers import filters_grid, labelled_grid, maps_grid
    from dynalens.pictures.thumbnails import Thumbnails
    from dynalens.pictures.watch import SuspectWatch, small_copies, small_map
else:
    __getattr__, __dir__ = deferred(
        __name__,
        copies="PassingCopies by_shape",
        inputs="Normalisation find_normalisation shown_inputs to_rgb",
        layers="filters_grid labelled_grid maps_grid",
        thumbnails="Thumbnails",
        watch="SuspectWatch small_copies small_map",
    )

__all__ = [
    "AREAS",
    "IGNORED_AREA",
    "Decode",
    "ExplanationRow",
    "FilmStrip",
    "Normalisation",
    "PassingCopies",
    "PicturePace",
    "Relative",
    "Sentences",
    "Shown",
    "Suspect",
    "SuspectWatch",
    "Thumbnails",
    "accuracy_curve",
    "beside_areas",
    "by_shape",
    "class_name",
    "class_pairs",
    "curve_chart",
    "data_map",
    "doubted_labels",
    "excerpt",
    "explanation_sheet",
    "filters_grid",
    "find_normalisation",
    "first_learned",
    "forgetting_events",
    "input_cell",
    "jpeg_bytes",
    "labelled_grid",
    "map_cell",
    "maps_grid",
    "margins",
    "numbers_text",
    "overlay",
    "png_bytes",
    "relatives_sheet",
    "shown_inputs",
    "shown_part",
    "signal_cell",
    "small_copies",
    "small_map",
    "suspects_gallery",
    "suspects_table",
    "to_rgb",
    "training_data_analysis",
    "words_cell",
]
