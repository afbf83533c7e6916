"""The scores that others rank by, as their sources define them; higher is always more suspicious."""

import numpy as np

from dynalens.dynamics import Array, SampleStatistics


def named_scores(statistics: SampleStatistics, probability_margin: Array) -> dict[str, Array]:
    r"""Return ``score_<name>`` for each score, shape ``(N,)``; NaN for a sample never seen.

    - aum: minus the mean of z_y - max_{k != y} z_k (Pleiss et al. 2020, equation 1);
    - probability_margin: minus the mean of p_y - max_{k != y} p_k, the normalised margin of Northcutt et al. 2021
      averaged over presentations; NaN without history;
    - confidence: minus the mean of p_y (Swayamdipta et al. 2020);
    - loss: the mean of -log p_y;
    - el2n: the mean of ||p - onehot(y)||_2 (Paul et al. 2021, who average over seeds early in training);
    - forgetting: forgetting events; a sample never learned has the number of its presentations, more than any that was
      learned can have (Toneva et al. 2019 put it last in their order as well);
    - correctness: minus the fraction of correct presentations (Swayamdipta et al. 2020);
    - first_learned: epoch of the first correct presentation; a sample never learned comes one after the latest.

    A regression has loss, forgetting, correctness and first_learned alone, as the others are of classes.

    Args:
        statistics: The record.
        probability_margin: Shape ``(N,)``, the mean of p_y - max_{k != y} p_k.
    """
    has_presentations, has_learned = statistics.presentations > 0, statistics.learned
    latest = np.max(statistics.first_learned, where=has_learned, initial=-1)
    scores = {
        "aum": -statistics.margin,
        "probability_margin": -probability_margin,
        "confidence": -statistics.confidence,
        "loss": statistics.loss,
        "el2n": statistics.el2n,
        "forgetting": np.where(has_learned, statistics.forgetting_events, statistics.presentations),
        "correctness": -statistics.correctness,
        "first_learned": np.where(has_learned, statistics.first_learned, latest + 1),
    }
    if statistics.target is not None:
        scores = {name: scores[name] for name in ("loss", "forgetting", "correctness", "first_learned")}
    return {f"score_{name}": np.where(has_presentations, values, np.nan) for name, values in scores.items()}
