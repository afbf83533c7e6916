"""What the presentations of a sample disagree on, taken as an ensemble: entropies in nats."""

import numpy as np

from dynalens.dynamics.statistics import Array

_BLOCK = 2**20  # numbers at a time, because float64 copies take memory


def entropies(probabilities: Array) -> Array:
    r"""Return the entropy of each row, :math:`-\sum_k p_k \ln p_k` with 0 ln 0 = 0.

    Args:
        probabilities: Shape ``(N, K)``.

    Returns:
        Shape ``(N,)``, float64, in nats, in [0, ln K]; NaN where a row has NaN.

    Example:
        >>> entropies(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4).tolist()
        [0.6931, 0.0]
    """
    result = np.empty(len(probabilities))
    size = max(1, _BLOCK // max(1, probabilities.shape[1]))
    for start in range(0, len(result), size):
        p = probabilities[start : start + size].astype(np.float64)
        result[start : start + size] = -(p * np.log(np.where(p == 0, 1, p))).sum(axis=1)
    return result + 0.0  # -0.0 becomes 0.0


def uncertainty(mean_probabilities: Array, expected_entropy: Array | None) -> dict[str, Array]:
    r"""Return the columns "entropy", "expected_entropy" and "mutual_information" of a table.

    With p_t the probabilities of presentation t: :math:`H(\bar p)`, :math:`\overline{H(p_t)}` and their difference, the
    mutual information of the class and the epoch. It is 0 where all presentations agree, and large where each is sure
    of another class.

    Source: Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011, equation 2;
    Smith and Gal, "Understanding Measures of Uncertainty for Adversarial Example Detection", UAI 2018, section 2.
    Differs from the source: the members of the ensemble are the epochs of one training.

    Args:
        mean_probabilities: Shape ``(N, K)``.
        expected_entropy: Shape ``(N,)``; None in records of earlier versions, of which only the entropy is known.

    Returns:
        Shape ``(N,)`` each, float64, in nats; NaN for a sample that was never seen.

    Example:
        Sure of one class, then of the other.

        >>> columns = uncertainty(np.array([[0.5, 0.5]]), np.array([0.0]))
        >>> {name: values.round(4).tolist() for name, values in columns.items()}
        {'entropy': [0.6931], 'expected_entropy': [0.0], 'mutual_information': [0.6931]}
    """
    columns = {"entropy": entropies(mean_probabilities)}
    if expected_entropy is None:
        return columns
    # Rounding of float32 means may take the difference below 0, which no mutual information is.
    information = np.maximum(columns["entropy"] - expected_entropy, 0)
    return columns | {"expected_entropy": expected_entropy, "mutual_information": information}
