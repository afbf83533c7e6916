"""Does a map name what the model uses? Curves, gains, controls, sanity checks and localisation."""

from dynalens.faithfulness.agreement import (
    attribution_drift,
    cascading_randomisation,
    class_sensitivity,
    randomisation_check,
    randomised,
    rank_correlation,
    runner_up,
)
from dynalens.faithfulness.consensus import consensus, consensus_agreement, normalised
from dynalens.faithfulness.curves import (
    DEFAULT_SETTINGS,
    Curve,
    CurveSettings,
    area_under_curve,
    deletion_curve,
    faithfulness_curves,
    insertion_curve,
    random_ranking_control,
)
from dynalens.faithfulness.gains import rescaled, rescaled_curve, symmetric_relevance_gain
from dynalens.faithfulness.localisation import box_masks, pointing_game, relevance_mass
from dynalens.faithfulness.masked import average_drop, average_increase
from dynalens.faithfulness.measures import (
    METRICS,
    METRICS_OF_MAPS,
    METRICS_OF_REGIONS,
    METRICS_UNDER_NOISE,
    Faithfulness,
    check_metrics,
    measure,
)
from dynalens.faithfulness.noise import gaussian_noise, infidelity, sensitivity_max, uniform_noise
from dynalens.faithfulness.perturbation import (
    Baseline,
    baseline_images,
    check_baseline,
    patch_relevance,
    random_ranking,
    replaced_fractions,
    replaced_pixels,
    replacement_ranks,
    tie_fraction,
)
from dynalens.faithfulness.roar import MaskedImages, kar_datasets, retrain, roar_datasets
from dynalens.faithfulness.scoring import PRECISIONS, chunk_size_for, class_logits

__all__ = [
    "DEFAULT_SETTINGS",
    "METRICS",
    "METRICS_OF_MAPS",
    "METRICS_OF_REGIONS",
    "METRICS_UNDER_NOISE",
    "PRECISIONS",
    "Baseline",
    "Curve",
    "CurveSettings",
    "Faithfulness",
    "MaskedImages",
    "area_under_curve",
    "attribution_drift",
    "average_drop",
    "average_increase",
    "baseline_images",
    "box_masks",
    "cascading_randomisation",
    "check_baseline",
    "check_metrics",
    "chunk_size_for",
    "class_logits",
    "class_sensitivity",
    "consensus",
    "consensus_agreement",
    "deletion_curve",
    "faithfulness_curves",
    "gaussian_noise",
    "infidelity",
    "insertion_curve",
    "kar_datasets",
    "measure",
    "normalised",
    "patch_relevance",
    "pointing_game",
    "random_ranking",
    "random_ranking_control",
    "randomisation_check",
    "randomised",
    "rank_correlation",
    "relevance_mass",
    "replaced_fractions",
    "replaced_pixels",
    "replacement_ranks",
    "rescaled",
    "rescaled_curve",
    "retrain",
    "roar_datasets",
    "runner_up",
    "sensitivity_max",
    "symmetric_relevance_gain",
    "tie_fraction",
    "uniform_noise",
]
