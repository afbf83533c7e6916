"""Under which keys a dict of a dataset or of a batch is looked through where nothing is said."""

LABEL_KEYS = ("label", "labels", "target", "targets", "y")
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", "input", "inputs")
INPUT_KEYS = (*IMAGE_KEYS, "input_ids", "tokens")
INDEX_KEYS = ("index", "idx", "position")
