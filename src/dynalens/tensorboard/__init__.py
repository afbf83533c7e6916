"""TensorBoard's tags, and where values are written: to an event file, to plain files, or to a logger."""

from dynalens.tensorboard.sinks import Sink, make_sink, write_embedding, write_layout
from dynalens.tensorboard.tags import TAGS, Layout, Tag, dynamics_layout, faithfulness_layout, tags_table

__all__ = [
    "TAGS",
    "Layout",
    "Sink",
    "Tag",
    "dynamics_layout",
    "faithfulness_layout",
    "make_sink",
    "tags_table",
    "write_embedding",
    "write_layout",
]
