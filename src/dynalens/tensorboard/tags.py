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


_EACH, _SECOND, _EXPLAINED = "each logged epoch", "each logged epoch from the second", "each explained epoch"
_DRAWN = "each epoch with charts"
_DRAWN_2ND, _SHEETS = _DRAWN + " from the second", "each explained epoch with pictures"
_AGAIN, _UNIT = "each explained epoch from the second", "[-1, 1]"
_ROBUSTNESS = "dynalens/robustness"
_CONCEPTS, _ASKED = "dynalens/concepts", "each `every_n_epochs` of `ConceptMonitor`"
_LAYERS, _EACH_N = "dynalens/layers", "each `every_n_epochs` of `LayerMonitor`"
_DYNAMICS, _CHARTS, _FAITHFULNESS = "dynalens/dynamics", "dynalens/charts", "dynalens/faithfulness"

TAGS = (
    Tag(f"{_DYNAMICS}/forgotten", "samples that were right before and are wrong now", "samples", _EACH),
    Tag(f"{_DYNAMICS}/learned", "samples that are right for the first time", "samples", _EACH),
    Tag(f"{_DYNAMICS}/never_learned", "samples that were trained on and never right so far", "samples", _EACH),
    Tag(f"{_DYNAMICS}/suspects", "flagged samples, the number that `dynalens suspects` prints", "samples", _EACH),
    Tag(
        f"{_DYNAMICS}/suspects_overlap",
        "overlap (Jaccard index) of the flagged samples with those logged before",
        "[0, 1]",
        _SECOND,
    ),
    Tag(f"{_DYNAMICS}/noise_rate", "estimated fraction of wrong labels, from the run alone", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/train_accuracy", "fraction of the epoch's presentations that were right", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/mean_margin", "mean margin of the epoch's presentations", "logits", _EACH),
    Tag(f"{_DYNAMICS}/non_finite", "presentations left out, because a logit was not finite", "presentations", _EACH),
    Tag(f"{_DYNAMICS}/gradient_norm", "length of the last layer's gradients, with `gradient_noise`", "[0, inf)", _EACH),
    Tag(
        f"{_DYNAMICS}/gradient_variance",
        "variance of these gradients over samples (trace of the covariance)",
        "[0, inf)",
        _EACH,
    ),
    Tag(
        f"{_DYNAMICS}/noise_scale",
        "batch size at which noise and mean of the gradient are equally large",
        "samples",
        _EACH,
    ),
    Tag(f"{_DYNAMICS}/margin", "histogram of each sample's mean margin (AUM)", "logits", _EACH),
    Tag(f"{_DYNAMICS}/confidence", "histogram of each sample's mean p(label)", "[0, 1]", _EACH),
    Tag(f"{_DYNAMICS}/forgetting_events", "histogram of each sample's forgetting events", "events", _EACH),
    Tag(f"{_CHARTS}/data_map", "variability, confidence and correctness of each sample", "picture", _DRAWN),
    Tag(
        f"{_CHARTS}/training_data_analysis",
        "epoch of the last forgetting event, and `probability_gap`",
        "picture",
        _DRAWN,
    ),
    Tag(
        f"{_CHARTS}/forgetting_events",
        "number of samples by their forgetting events",
        "picture",
        _DRAWN,
    ),
    Tag(f"{_CHARTS}/margins", "histogram of mean margins; below 0 another class was ahead", "picture", _DRAWN),
    Tag(
        f"{_CHARTS}/class_pairs",
        "number of flagged samples by given and suggested class",
        "picture",
        _DRAWN,
    ),
    Tag(
        f"{_CHARTS}/first_learned",
        "number of samples by the epoch in which they were learned",
        "picture",
        _DRAWN,
    ),
    Tag("dynalens/summary", "flagged samples, noise rate, and reasons to doubt them", "text", _EACH),
    Tag(
        "dynalens/suspects",
        "gallery of the `top_k` worst suspects, for images and signals",
        "picture",
        _DRAWN_2ND,
    ),
    Tag("dynalens/suspects/table", "the same as a table, for inputs without a picture", "text", _DRAWN),
    Tag(
        "dynalens/prototypes",
        "prototypes, criticisms, easiest and hardest samples of each class, with `prototypes`",
        "picture",
        "end of training",
    ),
    Tag(
        "dynalens/projector",
        "features of up to 2,000 samples, with `features`",
        "embedding",
        "each `projector_every_n_epochs`",
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/score",
        "fraction of the class's images for which the concept speaks for the class",
        "[0, 1]",
        _ASKED,
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/random", "the same for random images in place of the concept", "[0, 1]", _ASKED
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/p_value",
        "p-value of the two-sided test between `score` and `random`",
        "[0, 1]",
        _ASKED,
    ),
    Tag(
        f"{_CONCEPTS}/<concept>/<class>/accuracy",
        "accuracy of telling examples of the concept from random images",
        "[0, 1]",
        _ASKED,
    ),
    Tag(f"{_CONCEPTS}/dissection", "channels whose activity overlaps most with a mask", "picture", _ASKED),
    Tag("dynalens/explanations", "one row per sample: input, maps, curves", "picture", _SHEETS),
    Tag(
        "dynalens/film/<method>",
        "film strip: maps of the samples over the epochs",
        "picture",
        "1st, 2nd, 4th, ... and last explained epoch",
    ),
    Tag(
        "dynalens/explanations/overhead",
        "time spent explaining, as a fraction of the training time since the previous explanation",
        "fraction",
        _EXPLAINED,
    ),
    Tag(
        "dynalens/explanations/every_n_epochs",
        "epochs until the next explanation; `max_overhead` makes it more",
        "epochs",
        _EXPLAINED,
    ),
    Tag(f"{_ROBUSTNESS}", "the nearest inputs with another prediction", "picture", _SHEETS),
    Tag(
        f"{_ROBUSTNESS}/<attack>/median_step",
        "median of the smallest steps that change the prediction",
        "units of the input",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<attack>/changed",
        "fraction of the samples for which there is such a step",
        "[0, 1]",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<corruption>/accuracy",
        "accuracy on corrupted samples; `none`: on unchanged ones",
        "[0, 1]",
        _EXPLAINED,
    ),
    Tag(
        f"{_ROBUSTNESS}/<corruption>/margin",
        "mean margin of corrupted samples; `none`: of unchanged ones",
        "logits",
        _EXPLAINED,
    ),
    Tag(f"{_LAYERS}/weights", "filters of the first layer", "picture", _EACH_N),
    Tag(f"{_LAYERS}/feature_maps", "maps of a layer's channels for fixed inputs", "picture", _EACH_N),
    Tag(f"{_LAYERS}/top_inputs", "the inputs to which a channel responds most", "picture", _EACH_N),
    Tag(f"{_LAYERS}/maximised", "images that maximise classes or channels", "picture", "end of training"),
    Tag(f"{_FAITHFULNESS}/<method>/<metric>", "mean of the metric over the explained samples", _UNIT, _EXPLAINED),
    Tag(f"{_FAITHFULNESS}/random/<metric>", "the same for a random ranking, which a map must beat", _UNIT, _EXPLAINED),
    Tag(
        f"{_FAITHFULNESS}/<method>/attribution_drift",
        "rank correlation with the map of the previous explanation",
        _UNIT,
        _AGAIN,
    ),
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
            f"{method}: {metric}": _shaded_line(f"{faithfulness}/{method}/{metric}", f"{faithfulness}/random/{metric}")
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


def _shaded_line(tag: str, control_tag: str) -> Chart:
    return "Margin", [tag, control_tag, tag]
