"""Words in dicts and files: usual keys of samples and batches, decisions and answers of a person."""

LABEL_KEYS = ("label", "labels", "target", "targets", "y")
UNIT_LABEL_KEYS = (*LABEL_KEYS, "tags", "ner_tags", "pos_tags", "mask", "masks", "segmentation")
"""Of samples with a label for each token or pixel."""
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", "input", "inputs")
INPUT_KEYS = (*IMAGE_KEYS, "input_ids", "tokens")
FEATURE_NAMES = ("feature_names", "feature_names_in_", "features", "columns")
"""Attributes of a dataset with the names of a table's columns."""
INDEX_KEYS = ("index", "idx", "position")
OWN_INDEX = (
    "Let each sample carry its own index, and pass `index=` the key of it or its place in the batch, or a "
    "callable(batch) -> indices, without `IndexedDataset`."
)
"""Advice if the position cannot be read from what the sampler draws."""

DECISIONS = ("keep", "relabel", "drop")
"""Decisions about a sample in ``decisions.csv``."""
ANSWERS = ("right", "wrong", "unsure")
"""Answers about a label in ``answers.csv`` of an audit."""
