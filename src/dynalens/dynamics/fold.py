"""The dense record of N samples, and how an epoch's presentations are added to it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dynalens.dynamics.statistics import Array, SampleStatistics
from dynalens.dynamics.step_rows import EL2N, LOG_P, MARGIN, RIVAL, ROWS, TARGET, predicted_classes
from dynalens.dynamics.uncertainty import entropies
from dynalens.dynamics.units import add_units, kind_of, read_units

State = dict[str, Array]

# Each group starts as int16 and widens to int32 when one of its values needs it: 64 bytes for each sample.
_CLASSES = {"label": -1, "predicted": -1, "rival": -1}
_COUNTS = {
    "presentations": 0,
    "correct": 0,
    "forgetting_events": 0,
    "first_learned": -1,
    "last_forgotten": -1,
}
_SUMS = ("margin_sum", "p_mean", "p_m2", "loss_sum", "el2n_sum")
_LEAD_OF_RIVAL = "rival_lead"
"""How far the rival leads in the vote, in [0, 1], as a part of 2^15 - 1 in int16."""
_WHOLE = 2**15 - 1
_WEIGHTED = ("weighted_margin", "weighted_p_label", "weighted_p_rival")
"""Means in which an epoch counts with :func:`epoch_weight`, float32."""
_LEAD = "probability_lead"
"""p_y - max_{k != y} p_k at the last presentation; positive exactly where the margin was."""

_PROBABILITIES = "probability_sum"
"""Sum of p over presentations, (N, K); there only where it was asked for."""

_ENTROPY = "entropy_sum"
"""Sum of the entropy of p over presentations, (N,); there where the probabilities are."""

_BLOCK = 2**16  # samples folded at a time, so that what they need stays in the processor's cache


def empty_state(num_samples: int, classes: int = 0) -> State:
    """Return the record of samples that were never seen, with room for the probabilities of that many classes."""
    start_values = _CLASSES | _COUNTS | {_LEAD_OF_RIVAL: 0}
    state = {name: np.full(num_samples, start, np.int16) for name, start in start_values.items()}
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_SUMS, (num_samples,))
    if classes:
        shapes |= {_PROBABILITIES: (num_samples, classes), _ENTROPY: (num_samples,)}
    for name, shape in shapes.items():
        state[f"{name}.high"] = np.zeros(shape, np.int32)
        state[f"{name}.low"] = np.zeros(shape, np.int16)
    state.update({name: np.zeros(num_samples, np.float32) for name in (_LEAD, *_WEIGHTED)})
    return state


def classes_of(state: Mapping[str, Array]) -> int:
    """Return the number of classes whose probabilities the record sums, or 0 if it sums none."""
    high = state.get(f"{_PROBABILITIES}.high")
    return 0 if high is None else high.shape[1]


def with_entropy(state: State) -> State:
    """Return the record of a version that summed probabilities and no entropy: what was not summed is NaN for good."""
    if not classes_of(state) or f"{_ENTROPY}.high" in state:
        return state
    num_samples = len(state["label"])
    entropy_state: State = {f"{_ENTROPY}.high": np.zeros(num_samples, np.int32)}
    entropy_state[f"{_ENTROPY}.low"] = np.zeros(num_samples, np.int16)
    _write_sum(entropy_state, _ENTROPY, np.s_[:], np.where(state["presentations"] > 0, np.nan, 0.0))
    return state | entropy_state


def with_rival(state: State) -> State:
    """Return the record of a version that counted which class was predicted instead of the label, each time alike."""
    if "candidate" not in state:
        return state
    lead = state["candidate_count"] / np.maximum(state["presentations"], 1)
    others = {name: values for name, values in state.items() if name not in ("candidate", "candidate_count")}
    return others | {"rival": state["candidate"], _LEAD_OF_RIVAL: np.rint(_WHOLE * lead).astype(np.int16)}


def fold(state: State, index: Array, rows: Array, epoch: int, step: float) -> tuple[int, int]:
    """Add the presentations of an epoch, in the order they were made.

    Args:
        state: The record; changed in place.
        index: Shape ``(M,)``, the sample of each presentation.
        rows: Shape ``(6, M)``, as of :func:`presentation_rows`, or more with the probabilities or the numbers of units.
        epoch: Number of the epoch.
        step: The epoch's weight as a part of the weights of all epochs so far: the step of the weighted means.

    Returns:
        Numbers of forgetting events and of samples that were correct for the first time.
    """
    rounds = _rounds(index, len(state["label"]))
    _widen(state, rows, epoch, len(rounds))
    forgotten_count = learned_count = 0
    size = max(1, _BLOCK * ROWS // len(rows))
    for order in rounds:
        covers_all = len(order) == len(state["label"])  # the rows are all rows, in order: a slice is faster
        for start in range(0, len(order), size):
            block = order[start : start + size]
            places = slice(start, start + len(block)) if covers_all else index[block]
            changes = _add_once(state, places, rows.take(block, axis=1), epoch, step)
            forgotten_count, learned_count = forgotten_count + changes[0], learned_count + changes[1]
    return forgotten_count, learned_count


def read_sum(state: Mapping[str, Array], name: str, places: "slice | Array" = np.s_[:]) -> Array:
    """Return a sum as float64."""
    bits = state[f"{name}.high"][places].astype(np.int64) << 32
    bits |= state[f"{name}.low"][places].view(np.uint16).astype(np.int64) << 16
    return bits.view(np.float64)


def _write_sum(state: State, name: str, places: "slice | Array", values: Array) -> None:
    """Keep the upper 48 bits of a float64, rounded: 37 binary digits, 7e-9 after a thousand additions."""
    bits = values.view(np.int64) + 0x8000
    state[f"{name}.high"][places] = (bits >> 32).astype(np.int32)
    state[f"{name}.low"][places] = (bits >> 16).astype(np.int16)


def _rounds(index: Array, num_samples: int) -> Sequence[Array]:
    """Return positions in ``index``, sorted by sample: first presentations, second ones, and so on."""
    if not len(index):
        return []
    position = np.full(num_samples, -1)
    position[index] = np.arange(len(index))
    single_places = position if len(index) == num_samples else position[position >= 0]
    if len(single_places) == len(index) and (len(index) < num_samples or single_places.min() >= 0):
        return [single_places]
    order = np.argsort(index, kind="stable")
    sorted_index = index[order]
    is_first = np.append(True, sorted_index[1:] != sorted_index[:-1])
    place = np.arange(len(index))
    repeat = place - np.maximum.accumulate(np.where(is_first, place, 0))
    return np.split(order[np.argsort(repeat, kind="stable")], np.bincount(repeat).cumsum()[:-1])


def _widen(state: State, rows: Array, epoch: int, repeats: int) -> None:
    largest_class = int(rows[[RIVAL, TARGET]].max(initial=0))
    largest_count = max(epoch, int(state["presentations"].max()) + repeats)
    for names, largest in ((_CLASSES, largest_class), (_COUNTS, largest_count)):
        if any(largest > np.iinfo(state[name].dtype).max for name in names):
            state.update({name: state[name].astype(np.int32) for name in names})


def _add_once(state: State, places: "slice | Array", rows: Array, epoch: int, step: float) -> tuple[int, int]:
    """Add one presentation of each of some different samples: every statistic's own recursion stands here."""
    margin, log_p, p = rows[MARGIN], rows[LOG_P], np.exp(rows[LOG_P])
    correct = margin > 0
    forgot = ~correct & (state[_LEAD][places] > 0)
    is_new = correct & (state["first_learned"][places] < 0)
    state["presentations"][places] += 1
    state["correct"][places] += correct
    state["forgetting_events"][places] += forgot
    state["first_learned"][places] = np.where(is_new, epoch, state["first_learned"][places])
    state["last_forgotten"][places] = np.where(forgot, epoch, state["last_forgotten"][places])
    state["label"][places] = rows[TARGET]
    state["predicted"][places] = predicted_classes(rows)
    # The largest of the others is exp(log_p - margin); rounding may not make a lead of a tie, nor the reverse.
    p_rival = np.exp(log_p - margin)
    lead = p - p_rival
    state[_LEAD][places] = np.where(correct, np.maximum(lead, np.finfo(np.float32).tiny), np.minimum(lead, 0))
    _add_to_sums(state, places, rows, p.astype(np.float64))
    # The weights sum to 1; a sample's first presentation has all of them.
    part = np.where(state["presentations"][places] == 1, np.float32(1), np.float32(step))
    _move_means(state, places, (margin, p, p_rival), part)
    _vote(state, places, rows, part)
    if kind_of(state) is not None:
        add_units(state, places, rows[ROWS:], step)
    return int(np.count_nonzero(forgot)), int(np.count_nonzero(is_new))


def _add_to_sums(state: State, places: "slice | Array", rows: Array, p: Array) -> None:
    for name, values in (("margin_sum", rows[MARGIN]), ("loss_sum", -rows[LOG_P]), ("el2n_sum", rows[EL2N])):
        _write_sum(state, name, places, read_sum(state, name, places) + values)
    if classes_of(state):
        _write_sum(state, _PROBABILITIES, places, read_sum(state, _PROBABILITIES, places) + rows[ROWS:].T)
        _write_sum(state, _ENTROPY, places, read_sum(state, _ENTROPY, places) + entropies(rows[ROWS:].T))
    # Welford's recursion: a variance as difference of two sums would lose its digits.
    mean = read_sum(state, "p_mean", places)
    delta = p - mean
    mean += delta / state["presentations"][places]
    _write_sum(state, "p_mean", places, mean)
    _write_sum(state, "p_m2", places, read_sum(state, "p_m2", places) + delta * (p - mean))


def _move_means(state: State, places: "slice | Array", values: Sequence[Array], part: Array) -> None:
    """Move each mean towards its value by the epoch's part of all weights.

    Where a sample is seen once in each epoch, this is the weighted mean.
    """
    for name, value in zip(_WEIGHTED, values, strict=True):
        mean = state[name][places]
        state[name][places] = mean + part * (value - mean)


def _vote(state: State, places: "slice | Array", rows: Array, part: Array) -> None:
    """Boyer and Moore's majority vote for the largest class but the label's, with the weights of the means."""
    rival, new_rival = state["rival"][places], rows[RIVAL].astype(state["rival"].dtype)
    lead = state[_LEAD_OF_RIVAL][places] / np.float32(_WHOLE)
    has_vote = rows[RIVAL] != rows[TARGET]
    new_lead = (1 - part) * lead + np.where(rival == new_rival, part, -part)
    state["rival"][places] = np.where(has_vote & (new_lead < 0), new_rival, rival)
    state[_LEAD_OF_RIVAL][places] = np.rint(_WHOLE * np.where(has_vote, np.abs(new_lead), lead))


def read_statistics(state: State) -> SampleStatistics:
    """Return the statistics of the record; arrays of length N, copies."""
    times = np.where(state["presentations"] > 0, state["presentations"], np.nan)
    has_presentations = ~np.isnan(times)
    first_learned = state["first_learned"]
    candidate = np.where(state["correct"] < state["presentations"], state["rival"], -1)
    lead = state[_LEAD_OF_RIVAL] / _WHOLE
    statistics = SampleStatistics(
        label=state["label"].astype(np.int32),
        presentations=state["presentations"].astype(np.int32),
        forgetting_events=state["forgetting_events"].astype(np.int32),
        learned=first_learned >= 0,
        first_learned=_or_nan(first_learned),
        last_forgotten=_or_nan(state["last_forgotten"]),
        margin=read_sum(state, "margin_sum") / times,
        confidence=np.where(has_presentations, read_sum(state, "p_mean"), np.nan),
        variability=np.sqrt(read_sum(state, "p_m2") / times),
        correctness=state["correct"] / times,
        loss=read_sum(state, "loss_sum") / times,
        el2n=read_sum(state, "el2n_sum") / times,
        probability_gap=np.where(has_presentations, np.maximum(-state[_LEAD], 0), np.nan),
        predicted=state["predicted"].astype(np.int32),
        candidate=candidate.astype(np.int32),
        candidate_share=np.where(candidate >= 0, lead * (1 - state["correct"] / times), np.nan),
        weighted_margin=np.where(has_presentations, state["weighted_margin"], np.nan),
        weighted_confidence=np.where(has_presentations, state["weighted_p_label"], np.nan),
        weighted_rival=np.where(has_presentations, state["weighted_p_rival"], np.nan),
        mean_probabilities=_mean_probabilities(state, times),
        expected_entropy=read_sum(state, _ENTROPY) / times if f"{_ENTROPY}.high" in state else None,
    )
    return replace(statistics, **read_units(state, times))


def _mean_probabilities(state: State, times: Array) -> Array | None:
    classes = classes_of(state)
    if not classes:
        return None
    means = np.empty((len(times), classes), np.float32)
    size = max(1, _BLOCK // classes)
    for start in range(0, len(means), size):  # in blocks, because sums in float64 take twice the memory of the means
        block = slice(start, start + size)
        means[block] = read_sum(state, _PROBABILITIES, block) / times[block, np.newaxis]
    return means


def _or_nan(epochs: Array) -> Array:
    return np.where(epochs >= 0, epochs, np.nan)
