"""Charts count every sample once, whatever the record looks like, and say what they show."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dynalens.dynamics import SampleStatistics
from dynalens.pictures import axes, charts
from dynalens.pictures.axes import PLOT, Axes, Axis, even_ticks
from dynalens.pictures.card import WIDTH
from dynalens.pictures.class_pairs import class_pairs, counted_pairs, doubted_labels
from dynalens.pictures.drawing import BLUE, GREEN, ORANGE, PAPER, write

LEFT, TOP = 50, 36

CHARTS: dict[str, Callable[..., Image.Image]] = {
    "data map": charts.data_map,
    "analysis": charts.training_data_analysis,
    "forgetting": charts.forgetting_events,
    "margins": charts.margins,
    "first learned": charts.first_learned,
}


def record(n: int, **values: Any) -> SampleStatistics:
    """A record of n samples that were seen and learned in epoch 0 and never forgotten."""
    given: dict[str, Any] = {
        "presentations": 3, "learned": True, "first_learned": 0.0, "last_forgotten": np.nan, "margin": 1.0,
        "confidence": 0.75, "variability": 0.25, "correctness": 1.0, "probability_gap": 0.0,
    } | values  # fmt: skip
    kinds = {"presentations": np.int32, "forgetting_events": np.int32, "learned": np.bool_}
    every = [f.name for f in fields(SampleStatistics) if f.default is MISSING]  # none that only some records have
    return SampleStatistics(
        **{name: np.full(n, given.get(name, 0), kinds.get(name, np.float64)) for name in every}
        | {name: np.asarray(value) for name, value in values.items() if np.ndim(value)}
    )


def never_seen(n: int) -> SampleStatistics:
    nothing = dict.fromkeys(
        ("first_learned", "margin", "confidence", "variability", "correctness", "probability_gap"), np.nan
    )
    return record(n, presentations=0, learned=False, **nothing)


def random_record(n: int) -> SampleStatistics:
    rng = np.random.default_rng(n)
    learned = rng.random(n) < 0.8
    return record(
        n,
        learned=learned,
        first_learned=np.where(learned, rng.integers(0, 200, n), np.nan),
        forgetting_events=np.where(learned, rng.integers(0, 90, n), 0),
        last_forgotten=np.where(rng.random(n) < 0.5, rng.integers(1, 200, n), np.nan),
        margin=rng.normal(size=n),
        confidence=rng.random(n),
        variability=rng.random(n) / 2,
        probability_gap=rng.random(n),
    )


RECORDS = {
    "one": record(1),
    "one never seen": never_seen(1),
    "never seen": never_seen(7),
    "all equal": record(50),
    "ends of the axes": record(4, confidence=np.array([0, 1, 0, 1.0]), variability=np.array([0, 0.5, 0.5, 0.0])),
    "never learned": record(5, learned=False, first_learned=np.nan, margin=-2.0),
    "some never seen": record(4, presentations=np.array([3, 0, 3, 0]), margin=np.array([1, np.nan, -1, np.nan])),
    "huge margins": record(3, margin=np.array([-1e30, 0.0, 1e30])),
    "many": random_record(3000),
}


def count_of(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == np.array(colour)).all(axis=2).sum())


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("case", RECORDS)
def test_every_chart_draws_every_record(name: str, case: str) -> None:
    picture = CHARTS[name](RECORDS[case], "a subtitle")
    assert picture.mode == "RGB"
    assert picture.width == WIDTH  # as wide as TensorBoard's cards, which leave out pixels of wider ones
    middle = picture.crop((LEFT, TOP, LEFT + PLOT[0], TOP + PLOT[1]))
    assert len(middle.getcolors(100_000) or []) > 1  # something is drawn


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.01, 0.5, 0.999, 1.0, np.nan, -0.1, 1.1])] * 3), max_size=30))
def test_cells_count_each_point_of_the_unit_square_once(points: list[tuple[float, float, float]]) -> None:
    x, y, value = np.array(points or [(np.nan, 0, 0)]).T
    cells = charts.cell_counts(x, y, value)
    rows, columns = cells.samples.shape
    expected: dict[tuple[int, int], list[float]] = {}
    for a, b, v in zip(x, y, value, strict=True):
        if 0 <= a <= 1 and 0 <= b <= 1:
            at = (rows - 1 - min(int(b * rows), rows - 1), min(int(a * columns), columns - 1))
            expected.setdefault(at, []).append(v)
    assert {(int(r), int(c)): int(cells.samples[r, c]) for r, c in np.argwhere(cells.samples)} == {
        at: len(values) for at, values in expected.items()
    }
    assert cells.mean is not None
    for at, values in expected.items():
        np.testing.assert_allclose(cells.mean[at], sum(values) / len(values))


def test_the_data_map_shows_right_and_wrong_samples_where_they_belong() -> None:
    st_ = record(
        2, confidence=np.array([0.9, 0.1]), variability=np.array([0.05, 0.1]), correctness=np.array([1.0, 0.0])
    )
    pixels = np.asarray(charts.data_map(st_)).astype(int)
    left, top = LEFT, TOP
    right_sample = pixels[top + round(0.1 * PLOT[1]) - 1, left + round(0.1 * PLOT[0]) - 1]
    wrong_sample = pixels[top + round(0.9 * PLOT[1]) - 1, left + round(0.2 * PLOT[0]) - 1]
    mixed = [0.5 * np.array(colour) + 0.5 * np.array(PAPER) for colour in (BLUE, ORANGE)]
    np.testing.assert_allclose(right_sample, mixed[0], atol=1)
    np.testing.assert_allclose(wrong_sample, mixed[1], atol=1)


def test_margins_below_the_threshold_are_orange() -> None:
    st_ = record(10, margin=np.array([-2.0, -1, *range(1, 9)]))
    at_zero, at_five = charts.margins(st_), charts.margins(st_, threshold=5.0)
    assert 0 < count_of(at_zero, ORANGE) < count_of(at_five, ORANGE)
    assert count_of(charts.margins(record(3)), ORANGE) == 9 * 9  # the legend's square only


def test_forgetting_tells_never_forgotten_and_never_learned_apart() -> None:
    learned = charts.forgetting_events(record(9))
    assert count_of(learned, GREEN) > 1000
    assert count_of(learned, ORANGE) < 100
    never = charts.forgetting_events(record(9, learned=False, first_learned=np.nan))
    assert count_of(never, GREEN) < 100
    assert count_of(never, ORANGE) > 1000


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.booleans())
@example(7.9e-10, 1e-6, True)
def test_ticks_are_few_even_and_inside(low: float, span: float, whole: bool) -> None:
    high = low + span
    if not high > low:
        return
    ticks = even_ticks(low, high, integers=whole)
    assert len(ticks) <= 7
    tolerance = max(1e-6 * max(abs(low), abs(high), span), 1e-9 * whole)  # whole ticks are at least 1 apart
    assert all(low - tolerance <= tick <= high + tolerance for tick in ticks)
    if whole:
        assert all(tick == round(tick) for tick in ticks)


def test_a_line_is_interrupted_where_a_value_is_missing() -> None:
    axes = Axes("t", "", x=Axis("x", 0, 4), y=Axis("y", 0, 1))
    axes.line(np.arange(5.0), np.array([0.5, 0.5, np.nan, 0.5, 0.5]), BLUE)
    row = np.asarray(axes.image)[TOP + PLOT[1] // 2]
    drawn = (row == np.array(BLUE)).all(axis=1)
    assert drawn[LEFT + 10]
    assert drawn[LEFT + PLOT[0] - 10]
    assert not drawn[LEFT + PLOT[0] // 2]


def test_a_log_axis_places_powers_of_ten_evenly() -> None:
    axis = Axis("n", 1, 1000, log=True)
    np.testing.assert_allclose(axis.place(np.array([1, 10, 100, 1000])), [0, 1 / 3, 2 / 3, 1])
    assert [label for _, label in axis.ticks()] == ["1", "10", "100", "1k"]


def test_a_chart_is_as_large_as_tensorboard_shows_it() -> None:
    for chart in (charts.data_map, charts.training_data_analysis, charts.margins, charts.first_learned):
        assert chart(record(5), "epoch 0").size == (350, 215)  # the width of *Images*, the height of *Time Series*


def test_pairs_of_classes_are_counted_by_hand() -> None:
    given, suggested = np.array([0, 0, 1, 2, 2, 2]), np.array([1, 1, 0, 0, 0, -1])
    counts, classes = counted_pairs(given, suggested)
    assert classes == [0, 1, 2]
    assert counts.tolist() == [[0, 2, 0], [1, 0, 0], [2, 0, 0]]  # given by row; the last suggests nothing
    counts, classes = counted_pairs(given, suggested, most_classes=2)
    assert classes == [0, 1]  # met five times and three times, class 2 twice
    assert counts.tolist() == [[0, 2], [1, 0]]


def test_the_matrix_says_of_how_many_classes_it_shows_the_most_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    legends = list[str]()
    monkeypatch.setattr(axes.Axes, "legend", lambda _, entries: legends.extend(text for text, _ in entries))
    class_pairs(np.arange(20), np.roll(np.arange(20), 1))
    class_pairs(np.arange(12), np.roll(np.arange(12), 1))
    assert legends == ["the 12 classes with the most, of 20"]


def watched_words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are written into charts from now on."""
    written = list[str]()

    def watched(draw: Any, position: Any, text: str, *arguments: Any, **options: Any) -> float:
        written.append(text)
        return write(draw, position, text, *arguments, **options)

    monkeypatch.setattr(axes, "write", watched)
    return written


def test_the_matrix_names_ten_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = watched_words(monkeypatch)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    class_pairs(np.arange(10), np.roll(np.arange(10), 1), names)
    assert all(sum(len(text) > 1 and name.startswith(text) for text in written) == 2 for name in names)  # both ways


def test_the_matrix_cuts_names_and_shows_numbers_where_they_would_be_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    written = watched_words(monkeypatch)
    given, suggested = np.arange(4), np.arange(4)[::-1]
    class_pairs(given, suggested, ["airplane", "automobile", "dog", "ship"])
    assert {"airplane", "dog", "ship"} <= set(written)  # across, with room for eight letters
    rows = [text for text in written if text and ("automobile".startswith(text) or "airplane".startswith(text))]
    assert all(len(text) >= 3 for text in rows)
    assert len(set(rows)) == 4  # and cut once more, down
    written.clear()
    class_pairs(given, suggested, ["training a", "training b", "training c", "training d"])
    assert not any(text.startswith("tr") for text in written)
    assert {"0", "1", "2", "3"} <= set(written)


def test_the_matrix_is_darkest_where_most_samples_are() -> None:
    picture = class_pairs(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0]), ["cat", "dog"])
    pixels = np.asarray(picture).astype(int)
    cells = {
        (row, column): pixels[TOP + 36 + 72 * row - 20, LEFT + 63 + 126 * column - 40].sum()
        for row in (0, 1)
        for column in (0, 1)
    }
    assert cells[0, 1] < cells[1, 0] < cells[0, 0] == cells[1, 1] == sum(PAPER)  # given down, suggested across
    assert np.array_equal(class_pairs(np.zeros(0, int), np.zeros(0, int)).size, (350, 215))  # says that there is none


def test_the_matrix_of_several_labels_says_which_are_missing_and_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[str]()

    def watched(draw: Any, position: Any, text: str, *arguments: Any, **options: Any) -> float:
        written.append(text)
        return write(draw, position, text, *arguments, **options)

    monkeypatch.setattr(axes, "write", watched)
    labels, was_given = np.array([0, 0, 0, 7]), np.array([True, True, True, False])
    picture = doubted_labels(labels, was_given)
    assert {"missing", "extra", "0", "7"} <= set(written)
    pixels = np.asarray(picture).astype(int)
    cells = {
        (row, column): pixels[TOP + 36 + 72 * row - 20, LEFT + 63 + 126 * column - 40].sum()
        for row in (0, 1)
        for column in (0, 1)
    }
    assert cells[0, 1] < cells[1, 0] < cells[0, 0] == cells[1, 1] == sum(PAPER)  # label 0 extra, label 7 missing
    assert doubted_labels(labels[:0], was_given[:0]).size == (350, 215)  # says that there is none
    written.clear()
    doubted_labels(labels, was_given, ["cat", *"bcdefg", "owl"])
    assert {"cat", "owl"} <= set(written)


LABEL = {"data map": ["variability of p(label)", "mean p(label)", "left: hard or mislabeled"]}
LABEL |= {"analysis": ["max p - p(label)", "mislabeled?"], "margins": ["mean margin (logits)"]}
CLOSENESS = {"data map": ["variability of closeness", "mean closeness", "left: hard or wrong target"]}
CLOSENESS |= {"analysis": ["1 - 2 closeness, at least 0", "wrong target?"]}
CLOSENESS |= {"margins": ["mean log(tolerance / |residual|)"]}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({}, LABEL),
        ({"unit": [0], "target": [0.5]}, CLOSENESS),
        ({"unit": [0], "unit_margins": [[1.0, 2.0]]}, {"data map": ["mean p(worst label)"]}),
        ({"unit": [0]}, {"data map": ["mean p(worst token)"], "analysis": ["max p - p(worst token)"]}),
        ({"unit": [0], "unit_columns": [8]}, {"data map": ["mean p(worst pixel)"]}),
    ],
    ids=["label", "number", "labels", "tokens", "pixels"],
)
def test_a_chart_names_what_it_shows_of_each_kind_of_target(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], words: dict[str, list[str]]
) -> None:
    written: list[str] = []

    def noted(draw: Any, position: Any, text: str, size: int, **options: Any) -> float:
        written.append(text)
        return write(draw, position, text, size, **options)

    monkeypatch.setattr("dynalens.pictures.axes.write", noted)
    for chart, expected in words.items():
        written.clear()
        CHARTS[chart](record(1, **kind))
        assert set(expected) <= set(written)
