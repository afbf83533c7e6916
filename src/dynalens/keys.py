"""Words that dicts and files use: usual keys of samples and batches, a person's decisions and answers."""

LABEL_KEYS = ("label", "labels", "target", "targets", "y")
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", "input", "inputs")
INPUT_KEYS = (*IMAGE_KEYS, "input_ids", "tokens")
INDEX_KEYS = ("index", "idx", "position")

DECISIONS = ("keep", "relabel", "drop")
"""What ``decisions.csv`` says of a sample."""
ANSWERS = ("right", "wrong", "unsure")
"""What ``answers.csv`` of an audit says of a label."""
