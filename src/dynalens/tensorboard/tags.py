"""The tags under which TensorBoard shows what the monitors write, and the custom charts made of them.

A picture has one tag for all epochs. TensorBoard shows ten steps of it, the newest always among them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Chart = tuple[Literal["Multiline", "Margin"], Sequence[str]]
"""A custom chart: scalars with these tags as lines, or one line with the lower and the upper end of its shading."""

Layout = Mapping[str, Mapping[str, Chart]]
"""Custom charts by category and title. TensorBoard colours by run, so each chart has one line."""


class Tag(NamedTuple):
    """A tag's row in ``docs/tensorboard.md``; ``<method>`` and ``<metric>`` stand for names."""

    tag: str
    quantity: str
    unit: str
    frequency: str


_GROUPS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("dynalens/dynamics", "each logged epoch", (
        ("forgotten", "samples that were right before and are wrong now", "samples"),
        ("learned", "samples that are right for the first time", "samples"),
        ("never_learned", "samples that were trained on and never right so far", "samples"),
        ("suspects", "flagged samples, the number that `dynalens suspects` prints", "samples"),
        ("noise_rate", "estimated fraction of wrong labels, from the run alone", "[0, 1]"),
        ("train_accuracy", "fraction of the epoch's presentations that were right", "[0, 1]"),
        ("mean_margin", "mean margin of the epoch's presentations", "logits"),
        ("non_finite", "presentations left out, because a logit was not finite", "presentations"),
        ("gradient_norm", "length of the last layer's gradients, with `gradient_noise`", "[0, inf)"),
        ("gradient_variance", "variance of these gradients over samples (trace of the covariance)", "[0, inf)"),
        ("noise_scale", "batch size at which noise and mean of the gradient are equally large", "samples"),
        ("margin", "histogram of each sample's mean margin (AUM)", "logits"),
        ("confidence", "histogram of each sample's mean p(label)", "[0, 1]"),
        ("forgetting_events", "histogram of each sample's forgetting events", "events"),
    )),
    ("dynalens/dynamics", "each logged epoch from the second", (
        ("suspects_overlap", "overlap (Jaccard index) of the flagged samples with those logged before", "[0, 1]"),
    )),
    ("dynalens/charts", "each epoch with charts", (
        ("data_map", "variability, confidence and correctness of each sample", "picture"),
        ("training_data_analysis", "epoch of the last forgetting event, and `probability_gap`", "picture"),
        ("forgetting_events", "number of samples by their forgetting events", "picture"),
        ("margins", "histogram of mean margins; below 0 another class was ahead", "picture"),
        ("class_pairs", "number of flagged samples by given and suggested class", "picture"),
        ("first_learned", "number of samples by the epoch in which they were learned", "picture"),
    )),
    ("dynalens", "each logged epoch", (
        ("summary", "flagged samples, noise rate, and reasons to doubt them", "text"),
    )),
    ("dynalens", "each epoch with charts from the second", (
        ("suspects", "gallery of the `top_k` worst suspects, for images and signals", "picture"),
    )),
    ("dynalens", "each epoch with charts", (
        ("suspects/table", "the same as a table, for inputs without a picture", "text"),
    )),
    ("dynalens", "end of training", (
        ("prototypes", "prototypes, criticisms, easiest and hardest samples per class, with `prototypes`", "picture"),
    )),
    ("dynalens", "each `projector_every_n_epochs`", (
        ("projector", "features of up to 2,000 samples, with `features`", "embedding"),
    )),
    ("dynalens/concepts", "each `every_n_epochs` of `ConceptMonitor`", (
        ("<concept>/<class>/score", "fraction of the class's images for which the concept speaks for it", "[0, 1]"),
        ("<concept>/<class>/random", "the same for random images in place of the concept", "[0, 1]"),
        ("<concept>/<class>/p_value", "p-value of the two-sided test between `score` and `random`", "[0, 1]"),
        ("<concept>/<class>/accuracy", "accuracy of telling examples of the concept from random images", "[0, 1]"),
        ("dissection", "channels whose activity overlaps most with a mask", "picture"),
    )),
    ("dynalens", "each explained epoch with pictures", (
        ("explanations", "one row per sample: input, maps, curves", "picture"),
        ("robustness", "the nearest inputs with another prediction", "picture"),
    )),
    ("dynalens", "1st, 2nd, 4th, ... and last explained epoch", (
        ("film/<method>", "film strip: maps of the samples over the epochs", "picture"),
    )),
    ("dynalens/explanations", "each explained epoch", (
        ("overhead", "time spent explaining, as a fraction of training time since the last explanation", "fraction"),
        ("every_n_epochs", "epochs until the next explanation; `max_overhead` makes it more", "epochs"),
    )),
    ("dynalens/robustness", "each explained epoch", (
        ("<attack>/median_step", "median of the smallest steps that change the prediction", "units of the input"),
        ("<attack>/changed", "fraction of the samples for which there is such a step", "[0, 1]"),
        ("<corruption>/accuracy", "accuracy on corrupted samples; `none`: on unchanged ones", "[0, 1]"),
        ("<corruption>/margin", "mean margin of corrupted samples; `none`: of unchanged ones", "logits"),
    )),
    ("dynalens/layers", "each `every_n_epochs` of `LayerMonitor`", (
        ("weights", "filters of the first layer", "picture"),
        ("feature_maps", "maps of a layer's channels for fixed inputs", "picture"),
        ("top_inputs", "the inputs to which a channel responds most", "picture"),
    )),
    ("dynalens/layers", "end of training", (
        ("maximised", "images that maximise classes or channels", "picture"),
    )),
    ("dynalens/faithfulness", "each explained epoch", (
        ("<method>/<metric>", "mean of the metric over the explained samples", "[-1, 1]"),
        ("random/<metric>", "the same for a random ranking, which a map must beat", "[-1, 1]"),
    )),
    ("dynalens/faithfulness", "each explained epoch from the second", (
        ("<method>/attribution_drift", "rank correlation with the map of the previous explanation", "[-1, 1]"),
    )),
)  # fmt: skip
"""The beginning of some tags, when they are written, and of each: the rest of the tag, what it shows, and its unit."""

TAGS = tuple(
    Tag(f"{prefix}/{name}", quantity, unit, frequency)
    for prefix, frequency, rows in _GROUPS
    for name, quantity, unit in rows
)


def tags_table() -> str:
    """Return the guide's table of tags in Markdown."""
    rows = [f"| `{tag.tag}` | {tag.quantity} | {tag.unit} | {tag.frequency} |" for tag in TAGS]
    return "\n".join(["| tag | what it shows | unit or range | when |", "| --- | --- | --- | --- |", *rows])


def dynamics_layout(prefix: str) -> Layout:
    """Return the custom charts of a :class:`TrainingDynamicsMonitor`."""
    titles = {
        "noise_rate": "estimated noise rate",
        "suspects": "flagged samples",
        "suspects_overlap": "overlap of the flagged samples with those before",
        "never_learned": "samples never learned",
        "learned": "samples learned in the epoch",
        "forgotten": "samples forgotten in the epoch",
    }
    return {prefix: {title: _line(f"{prefix}/dynamics/{name}") for name, title in titles.items()}}


def faithfulness_layout(
    prefix: str, methods: Sequence[str], *, controlled: Sequence[str], uncontrolled: Sequence[str]
) -> Layout:
    """Return the custom charts of an :class:`AttributionMonitor`: for each metric, one chart per method.

    Args:
        prefix: What tags begin with.
        methods: Names of the methods.
        controlled: Metrics that are also measured for a random ranking, at which the shading ends.
        uncontrolled: The other metrics.
    """
    faithfulness = f"{prefix}/faithfulness"
    with_shading: dict[str, dict[str, Chart]] = {
        f"{prefix} {metric} (the shading ends at the random ranking)": {
            f"{method}: {metric}": (
                "Margin",
                [f"{faithfulness}/{name}/{metric}" for name in (method, "random", method)],
            )
            for method in methods
        }
        for metric in controlled
    }
    plain: dict[str, dict[str, Chart]] = {
        f"{prefix} {metric}": {f"{method}: {metric}": _line(f"{faithfulness}/{method}/{metric}") for method in methods}
        for metric in uncontrolled
    }
    return with_shading | plain


def _line(tag: str) -> Chart:
    return "Multiline", [f"{re.escape(tag)}$"]
