"""Pictures show inputs as a person knows them, and put what matters where it can be seen."""

import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dynalens.attribution import Explanation
from dynalens.explanations import EpochExplanations
from dynalens.explanations.result import ExplanationResult
from dynalens.pictures import (
    ExplanationRow,
    FilmStrip,
    Normalisation,
    PassingCopies,
    Suspect,
    SuspectWatch,
    drawing,
    explanation_sheet,
    find_normalisation,
    jpeg_bytes,
    map_cell,
    overlay,
    png_bytes,
    shown_inputs,
    signal_cell,
    suspects_gallery,
    suspects_table,
    to_rgb,
    words_cell,
)
from dynalens.pictures.card import LINE, TEXT
from dynalens.pictures.drawing import ORANGE, RIGHT, WRONG, text_that_fits, text_width, write
from dynalens.pictures.gallery import sparkline
from dynalens.pictures.overlays import word_lines
from dynalens.pictures.watch import small_copies
from test_dynamics import _NoCopyBetweenDevices

FRACTIONS = np.linspace(0, 1, 5)


class Normalize:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = mean, std


def count_of(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == np.array(colour)).all(axis=2).sum())


@pytest.mark.parametrize(
    "owner",
    [
        SimpleNamespace(transform=Normalize([0.1, 0.2, 0.3], (1, 2, 4))),
        SimpleNamespace(transform=SimpleNamespace(transforms=[str, Normalize((0.1, 0.2, 0.3), [1, 2, 4])])),
        SimpleNamespace(dataset=SimpleNamespace(transform=Normalize([0.1, 0.2, 0.3], [1, 2, 4]))),
        SimpleNamespace(normalize=Normalize(torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([1, 2, 4]))),
        SimpleNamespace(train_transform=[Normalize("no", [1]), Normalize([0.1, 0.2, 0.3], [1, 2, 4])]),
    ],
)  # fmt: skip
def test_the_normalisation_is_found_where_libraries_keep_it(owner: Any) -> None:
    found = find_normalisation(None, torch.nn.ReLU(), owner)
    assert found is not None
    np.testing.assert_allclose(found, ((0.1, 0.2, 0.3), (1, 2, 4)))


def test_a_batch_norm_or_a_transform_without_numbers_is_no_normalisation() -> None:
    nothing = SimpleNamespace(transform=Normalize(None, None), normalize=Normalize([0.5], [0.0]))
    assert find_normalisation(nothing, torch.nn.Sequential(torch.nn.BatchNorm2d(3)), SimpleNamespace()) is None


def test_a_normalised_image_looks_as_before() -> None:
    raw = torch.randint(0, 256, (2, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    x = (raw / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    shown = to_rgb(x, Normalisation(mean, std))
    assert np.array_equal(shown, raw.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("scale", [1, 255])
def test_images_on_a_known_scale_are_not_stretched(scale: int) -> None:
    grey = torch.tensor([[51.0, 102.0]]).view(1, 1, 1, 2) / (255 / scale)
    assert to_rgb(grey)[0, 0].tolist() == [[51] * 3, [102] * 3]


def test_any_other_number_of_channels_is_shown_in_grey() -> None:
    two = torch.tensor([[0.0, 5.0], [-100.0, 300.0]]).view(1, 2, 1, 2)  # each channel has its own scale
    assert to_rgb(two)[0, 0].tolist() == [[0] * 3, [255] * 3]
    assert to_rgb(torch.full((1, 12, 3, 5), torch.nan)).shape == (1, 3, 5, 3)
    assert to_rgb(torch.rand(2, 1, 4, 3, 5)).shape == (2, 3, 5, 3)  # a volume's middle slice


@pytest.mark.parametrize("channels", [1, 3])
def test_images_whose_channels_come_last_look_like_those_whose_channels_come_first(channels: int) -> None:
    images = torch.rand(2, channels, 250, 200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(small_copies(images.movedim(1, -1)), small_copies(images))


def test_signals_stay_signals() -> None:
    signal = torch.arange(6.0).view(1, 2, 3)
    assert np.array_equal(shown_inputs(signal)[0], signal[0].numpy())
    relevance = np.array([0.0, 0.0, 1.0])
    plain, explained = (signal_cell(signal[0].numpy(), r, (90, 60), is_signed=True) for r in (None, relevance))
    reddish = np.asarray(explained).astype(int)[30, 5], np.asarray(explained).astype(int)[5, 62]
    assert reddish[0].tolist() == [255, 255, 255]
    assert reddish[1][0] > reddish[1][1] + 60
    assert plain.size == (90, 60)
    assert signal_cell(np.full((1, 4), np.nan), None, (20, 20), is_signed=False).size == (20, 20)


def test_six_channels_of_a_signal_have_six_colours_and_more_are_said_to_be_left_out() -> None:
    flat = np.repeat(np.arange(12.0)[:, None], 4, axis=1)
    cell = np.asarray(signal_cell(flat, None, (40, 200), is_signed=False))
    assert len(np.unique(cell[1:-1, 20], axis=0)) == 1 + 6  # and the paper
    twelve, six = (suspects_gallery([suspect(picture=flat[:n])], "title") for n in (12, 6))
    assert twelve.height == six.height + 2 * LINE


@pytest.mark.parametrize(
    ("shape", "title"),
    [
        ((2, 3, 8, 8), "epoch 1; Grad-CAM of conv"),
        ((2, 12, 8), "epoch 1; first 6 of 12 channels; Grad-CAM of conv"),
        ((2, 2, 9, 8, 8), "epoch 1; slice 5 of 9, mean of 2 channels; Grad-CAM of conv"),
    ],
)
def test_the_title_of_a_sheet_says_which_part_of_inputs_is_shown(shape: tuple[int, ...], title: str) -> None:
    classes = torch.tensor([0, 1])
    explanation = Explanation({}, torch.zeros(2, 3), "conv")
    result = ExplanationResult(torch.zeros(shape), classes, classes, explanation, {}, {})
    assert EpochExplanations(result, {}).title(1) == title


def test_words_stand_before_their_relevance() -> None:
    cell = words_cell(("not", "good"), np.array([-1.0, 1.0]), (128, 128), is_signed=True)
    row = np.asarray(cell).astype(int)[4]
    first, second = row[4], row[int(text_width("not", 16)) + 10]
    assert first[2] > first[0] + 60  # blue speaks against
    assert second[0] > second[2] + 60  # red speaks for
    assert words_cell([f"word{i}" for i in range(500)], np.zeros(500), (128, 60), is_signed=True).size == (128, 60)


def test_words_are_broken_into_lines_and_blank_ones_are_left_out() -> None:
    words = ("a", "", "b", " ", "c")
    width = int(2 * (text_width("a", 16) + 6)) + 2
    assert word_lines(words, width, 16) == [[0, 2], [4]]
    plain = words_cell(("a", "b"), np.zeros(2), (100, 24), is_signed=False)
    padded = words_cell(("", "a", "b", ""), np.array([9.0, 0.0, 0.0, 9.0]), (100, 24), is_signed=False)
    assert np.array_equal(np.asarray(plain), np.asarray(padded))


def test_words_that_find_no_room_are_an_ellipsis_in_the_last_line() -> None:
    words = [f"word{i}" for i in range(40)]
    fitting = sum(len(line) for line in word_lines(words, 120, 16)[:2])
    short, long = (np.asarray(words_cell(words[:n], np.ones(n), (120, 44), is_signed=True)) for n in (fitting, 40))
    assert np.array_equal(short[:22], long[:22])
    assert (long[24:40] == 255).all(axis=2).mean() > (short[24:40] == 255).all(axis=2).mean()


def test_a_sheet_names_the_columns_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def noted(draw: Any, position: Any, text: str, *arguments: Any, **options: Any) -> float:
        written.append(text)
        return write(draw, position, text, *arguments, **options)

    monkeypatch.setattr("dynalens.pictures.sheets.write", noted)
    row = ExplanationRow(np.ones(3), "yes", "no", 0.2, {"a": np.ones(3)})
    sheets = [
        explanation_sheet([row], fractions=FRACTIONS, title="t", columns=columns)
        for columns in (None, ["age", "height", "income"], ["age"], ["a" * 300] * 3)
    ]
    assert "bars: age, height, income" in written
    assert [sheet.height - sheets[0].height for sheet in sheets] == [0, 2 * LINE, 0, 0]
    wide = ExplanationRow(np.ones(99), "yes", "no", 0.2, {"a": np.ones(99)})
    plain, named = (explanation_sheet([wide], fractions=FRACTIONS, title="t", columns=c) for c in (None, ["long"] * 99))
    assert plain.height == named.height


def test_the_most_relevant_words_of_a_long_text_are_shown() -> None:
    words = [f"word{i}" for i in range(90)]
    for place in (0, 1, 45, 70, 89):
        cell = words_cell(words, np.eye(90)[place], (120, 70), is_signed=True)
        pixels = np.asarray(cell).astype(int)
        assert (pixels[..., 0] - pixels[..., 2] > 60).sum() > 400  # half of the area of a word


def test_a_sheet_and_a_film_of_words_have_a_band_for_each_method_and_epoch() -> None:
    words = ("the", "film", "was", "good")
    maps = {"a": np.array([0.0, 0.0, 0.0, 1.0]), "b": np.array([0.0, -1.0, 0.0, 1.0])}
    row = ExplanationRow(words, "good", "bad", 0.2, maps, is_correct=False)
    one, two = (explanation_sheet([row] * n, fractions=np.array([0.0, 1.0]), title="t") for n in (1, 2))
    assert one.width == two.width == 700
    band = 2 * (14 + 18 + 2 + 5)  # a line for the method, one of words, a gap
    assert two.height - one.height == 2 * (14 + 5) + 2 * band
    film = FilmStrip()
    for epoch in range(2):
        film.add(epoch, [words], [maps["b"]], [epoch == 1], is_signed=True)
    pixels = np.asarray(film.image("t", ["good"])).reshape(-1, 3).tolist()
    assert [213, 94, 0] in pixels  # wrong at first
    assert [0, 114, 178] in pixels


def test_a_sheet_of_many_methods_grows_wider() -> None:
    methods = [f"m{i}" for i in range(30)]
    curves = {method: {"deletion": np.array([1.0, 0.0])} for method in methods}
    maps = {method: np.eye(4) for method in methods}
    row = ExplanationRow(np.zeros((4, 4, 3), np.uint8), "a", "b", 0.5, maps, curves=curves)
    sheet = explanation_sheet([row], fractions=np.array([0.0, 1.0]), title="t")
    assert sheet.width == 3 * (
        5 + 61 * (32 + 5)
    )  # an input, maps and charts of 32 with gaps of 5, three times as large


def test_an_overlay_shows_the_sign_of_relevance() -> None:
    image = np.full((1, 2, 3), 128, np.uint8)
    signed = overlay(image, np.array([[1.0, -1.0]]), is_signed=True)[0].astype(int)
    assert signed[0].tolist() == [200, 20, 30]
    assert signed[1].tolist() == [20, 60, 200]
    assert overlay(image, np.full((1, 2), np.nan), is_signed=False)[0, 0].tolist() == [128] * 3
    assert map_cell(image, np.zeros((1, 2)), (64, 64), is_signed=True).size == (64, 64)


def row(**changes: Any) -> ExplanationRow:
    given: dict[str, Any] = {
        "image": np.zeros((4, 8, 3), np.uint8), "label": "cat", "predicted": "dog", "p_label": 0.25,
        "is_correct": False, "maps": {"saliency": np.eye(4, 8)}, "curves": {"saliency": {"deletion": 1 - FRACTIONS}},
        "areas": {"saliency": {"deletion": 0.5}},
    }  # fmt: skip
    return ExplanationRow(**(given | changes))


def test_right_and_wrong_predictions_have_frames_of_two_colours() -> None:
    sheet = explanation_sheet([row(), row(is_correct=True)], fractions=FRACTIONS, title="epoch 0")
    for colour in (RIGHT, WRONG):
        assert count_of(sheet, colour) > 4 * 2 * 2 * 128
    unframed = explanation_sheet([row(is_correct=None, curves={})], fractions=FRACTIONS, title="epoch 0")
    assert count_of(unframed, RIGHT) == count_of(unframed, WRONG) == 0


def test_the_curves_of_a_method_stand_beside_its_map_and_under_its_whole_name() -> None:
    names = ("saliency", "grad_cam", "smooth_grad")
    maps, curves = {name: np.eye(4, 8) for name in names}, {name: {"deletion": FRACTIONS} for name in names}
    image = np.zeros((4, 8, 3), np.uint8)
    scaled = explanation_sheet([row(image=image, maps=maps, curves=curves)], fractions=FRACTIONS, title="")
    sheet = np.asarray(scaled.resize((350, scaled.height // 3), Image.Resampling.BOX), dtype=float)
    cell = 5 + (350 - 5) // 7 - 5  # with the gap to the next one
    dark = [sheet[-40:-20, 5 + column * cell : column * cell + cell].mean() < 128 for column in range(7)]
    assert dark == [True, True, False, True, False, True, False]  # input; map and chart, three times
    assert text_width("smooth-grad", TEXT) > cell  # more than a column
    assert sheet[30:46, 5 + 6 * cell : 15 + 6 * cell].min() < 200  # its last letters, over its curves


def test_letters_are_whole_in_a_card_and_pictures_have_their_detail() -> None:
    """A card of 350 pixels takes every second pixel of a sheet of five columns."""
    maps, noise = (
        {"a": np.eye(128), "b": np.eye(128)},
        np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8),
    )
    curves = {name: {"deletion": FRACTIONS} for name in maps}
    sheet = explanation_sheet([row(image=noise, maps=maps, curves=curves)], fractions=FRACTIONS, title="epoch 0")
    pixels = np.asarray(sheet)
    assert sheet.width == 2 * 350
    letters = pixels[: 2 * 40]
    assert np.array_equal(letters[::2, ::2], letters[1::2, 1::2])
    assert any(np.array_equal(pixels[y : y + 128, 10:138], noise) for y in range(sheet.height - 127))
    many = {f"method {i}": np.eye(4, 8) for i in range(7)}
    assert explanation_sheet([row(maps=many, curves={})], fractions=FRACTIONS, title="").width == 3 * 350


def test_a_random_control_is_drawn_behind_the_curve() -> None:
    grey = (175, 175, 175)
    controls = {"deletion": np.full(5, 0.9)}
    with_control = explanation_sheet([row(controls=controls)], fractions=FRACTIONS, title="")
    assert count_of(with_control, grey) > 300
    assert count_of(explanation_sheet([row()], fractions=FRACTIONS, title=""), grey) < 60  # letters' edges


def test_long_class_names_do_not_change_the_size_of_a_sheet() -> None:
    long = "a class name that goes on and on " * 9
    sizes = {
        explanation_sheet([row(label=name, predicted=name)], fractions=FRACTIONS, title=name).size
        for name in ("a", long)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("width", [10, 60, 200])
def test_cut_text_fits_and_ends_in_an_ellipsis(width: int) -> None:
    text = "golden retriever, standing"
    cut = text_that_fits(text, 20, width)
    assert cut == text or cut.endswith("…")
    assert text_width(cut, 20) <= max(width, text_width("…", 20))
    assert text.startswith(cut.rstrip("…"))
    assert text_that_fits("cat", 20, 200) == "cat"


def test_letters_beyond_ascii_are_written_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_wide_font", lambda size: None)
    assert text_that_fits("crème brûlée 猫", 20, 900) == "creme brulee ?"


@pytest.mark.parametrize("halo", [0, 2])
@pytest.mark.parametrize("place", [(3, 4), (3.25, 4.5), (40.0, 21.9)])
@pytest.mark.parametrize(("anchor", "fill"), [("la", ORANGE), ("mm", (0, 0, 0))])
def test_a_text_is_what_pillow_draws_the_first_time_and_again(
    place: tuple[float, float], anchor: str, fill: tuple[int, int, int], halo: int
) -> None:
    expected = Image.new("RGB", (80, 40), (90, 160, 30))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(expected).text(
        place, "7 as 1", fill=fill, font=font, anchor=anchor, stroke_width=halo, stroke_fill=(255, 255, 255)
    )
    for _ in range(2):
        image = Image.new("RGB", (80, 40), (90, 160, 30))
        width = write(ImageDraw.Draw(image), place, "7 as 1", 13, fill=fill, anchor=anchor, halo=halo)
        assert image.tobytes() == expected.tobytes()
        assert width == font.getlength("7 as 1")


def test_a_text_that_is_written_again_is_not_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    render, texts = ImageFont.FreeTypeFont.getmask2, []

    def watched(font: Any, text: str, *arguments: Any, **options: Any) -> Any:
        texts.append(text)
        return render(font, text, *arguments, **options)

    monkeypatch.setattr(ImageFont.FreeTypeFont, "getmask2", watched)
    draw = ImageDraw.Draw(Image.new("RGB", (200, 60)))
    for colour in (ORANGE, RIGHT, ORANGE):
        for text, x in (("margin", 0), ("epoch", 0), ("epoch", 40), ("epoch", 40.5)):
            write(draw, (x, 0), text, 51, fill=colour)  # a size that nothing else asks for
    assert texts == ["margin", "epoch", "epoch"] * 2  # whole pixels are one rendering; Pillow renders for each ink


def test_a_text_is_drawn_by_pillow_before_11_which_passes_the_place_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Image.new("RGB", (80, 40))
    write(ImageDraw.Draw(expected), (3.25, 4.5), "7 as 1", 13)
    fresh: Any = drawing._with_memory(ImageFont.load_default(13))
    render = fresh.getmask2

    def with_list(*arguments: Any, **options: Any) -> Any:
        as_list = [list(value) if isinstance(value, tuple) else value for value in arguments]
        return render(*as_list, **{name: list(v) if isinstance(v, tuple) else v for name, v in options.items()})

    monkeypatch.setattr(fresh, "getmask2", with_list)
    monkeypatch.setattr(drawing, "_own_font", lambda size: fresh)
    image = Image.new("RGB", (80, 40))
    write(ImageDraw.Draw(image), (3.25, 4.5), "7 as 1", 13)
    assert image.tobytes() == expected.tobytes()


def test_the_film_keeps_the_first_and_the_latest_epoch_and_frames_each() -> None:
    strip = FilmStrip(columns=5)
    for epoch in range(0, 60, 2):
        strip.add(epoch, [np.zeros((3, 5, 3), np.uint8)], [np.ones((3, 5))], [epoch < 40], is_signed=False)
        assert len(strip.epochs) <= 5
        assert strip.epochs[0] == 0
        assert strip.epochs[-1] == epoch
    assert strip.epochs == [0, 16, 32, 48, 58]
    image = strip.image("saliency", ["cat"])
    assert count_of(image, RIGHT) > count_of(image, WRONG) > 300


def suspect(**changes: Any) -> Suspect:
    given: dict[str, Any] = {
        "sample_id": "12", "label": "cat", "suggestion": "dog", "wrong_probability": 0.9,
        "trace": np.array([0.1, np.nan, 0.2, 0.3]),
    }  # fmt: skip
    return Suspect(**(given | changes))


def test_the_gallery_has_a_card_for_each_suspect_with_or_without_a_picture_or_a_name() -> None:
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    named = suspects_gallery([suspect(picture=red, name="photos/cat/a.jpg")] * 5, "title")
    with_picture, without = (suspects_gallery([suspect(picture=p)] * 5, "title") for p in (red, None))
    assert with_picture.size == without.size
    assert named.height == with_picture.height + 2 * 2 * LINE  # a line for each of two rows, at two pixels to one
    assert count_of(with_picture, (255, 0, 0)) == 5 * 154 * 154
    contrast = suspects_gallery([suspect(picture=red, contrast=np.ones((4, 4)))], "title")
    assert count_of(contrast, (255, 0, 0)) == 154 * 154
    assert count_of(contrast, (200, 20, 30)) >= 154 * 154  # everything speaks for the suggested class


def test_the_gallery_makes_cards_wider_where_names_or_numbers_would_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: dict[str, float] = {}

    def noted(draw: Any, position: Any, text: str, size: int, *, width: float | None = None, **options: Any) -> float:
        lines[text] = math.inf if width is None else width
        return write(draw, position, text, size, width=width, **options)

    monkeypatch.setattr("dynalens.pictures.gallery.write", noted)
    number = suspect(label="4.287", suggestion="3.424 (-0.863)")
    heights = [
        suspects_gallery([card] * 12, "title", ("target", "predicted", "closeness")).height
        for card in (suspect(), number)
    ]
    assert heights[1] > heights[0]  # three cards in a row, not four
    assert "orange: target; in %: how probably it is wrong" in lines
    assert "blue: predicted; line: closeness over the epochs" in lines
    assert lines["3.424 (-0.863)"] >= text_width("3.424 (-0.863)", TEXT)
    assert suspects_gallery([suspect(label="w" * 90)] * 4, "title").height > 0  # cut, in two columns


@pytest.mark.parametrize("trace", [[], [0.5], [np.nan, np.nan], [0.0, 1.0, 2.0]])
def test_a_sparkline_takes_any_trace(trace: list[float]) -> None:
    cell = sparkline(np.array(trace), (60, 30))
    assert (count_of(cell, ORANGE) > 0) == bool(np.isfinite(trace).any())


def test_the_table_of_suspects_escapes_what_markdown_would_read() -> None:
    text = suspects_table([suspect(label="<script>alert(1)</script>", suggestion="a|b *c* [d](e)")])
    assert "<script" not in text
    assert text.splitlines()[-1].count("|") == 6
    assert not set("*[") & set(text.splitlines()[-1])


@pytest.mark.parametrize(("encode", "kind"), [(jpeg_bytes, "JPEG"), (png_bytes, "PNG")])
def test_pictures_are_encoded_as_said(encode: Any, kind: str) -> None:
    with Image.open(io.BytesIO(encode(Image.new("RGB", (20, 10), (0, 114, 178))))) as picture:
        assert (picture.format, picture.size) == (kind, (20, 10))
        pixel = np.array(picture.convert("RGB").getpixel((5, 5)))
    np.testing.assert_allclose(pixel, (0, 114, 178), atol=4)


def watched(samples: list[int]) -> SuspectWatch:
    watch = SuspectWatch()
    watch.follow(samples)
    return watch


def inputs(n: int = 4, **shape: int) -> Tensor:
    """Images whose every pixel is (row + 1) / 4."""
    return ((torch.arange(n) + 1) / 4).view(n, 1, 1, 1).expand(n, 1, 3, 5)


def test_pictures_are_copies_of_the_samples_that_are_followed() -> None:
    watch, batch = watched([7, 9]), inputs().clone()
    watch.see([5, 7, 6, 8], batch)
    batch.zero_()  # the step works in place
    watch.take()
    assert list(watch.pictures) == [7]
    assert np.array_equal(watch.pictures[7], np.full((3, 5, 3), round(255 * 0.5), np.uint8))
    watch.follow([9])
    assert watch.pictures == {}


def test_indices_on_the_device_give_the_same_pictures_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    by_host, by_device = watched([7, 5, 1]), watched([7, 5, 1])
    for copies in (by_device._inputs, by_device._marks):
        monkeypatch.setattr(copies, "offer", copies._look_up)  # as for indices of an accelerator
    for indices in ([5, 6, 8, 9], [2, 3, 7, 4]):
        for watch in (by_host, by_device):
            watch.see(torch.tensor(indices), inputs())
            watch.mark(torch.tensor(indices), torch.tensor(indices).view(4, 1, 1) % 3)
    by_host.take()
    by_device.take()
    assert by_host.pictures.keys() == by_device.pictures.keys() == {5, 7}
    assert all(np.array_equal(by_host.pictures[i], by_device.pictures[i]) for i in (5, 7))


def test_copies_of_one_shape_at_a_time_take_memory_on_the_device() -> None:
    copies, every_shape = PassingCopies(most_shapes=1), PassingCopies()
    for watch in (copies, every_shape):
        watch.follow([1, 2])
        watch._look_up(torch.tensor([1, 3]), torch.zeros(2, 4), torch.clone)
        watch._look_up(torch.tensor([2, 4]), torch.ones(2, 5), torch.clone)
    assert {sample: copy.tolist() for sample, copy in copies.take().items()} == {2: [[1.0] * 5]}
    assert every_shape.take().keys() == {1, 2}


@pytest.mark.parametrize("shape", [(3, 224, 180), (2, 5000), (1, 8, 8), (1, 4, 20, 20)])
@pytest.mark.parametrize("on_device", [True, False])
def test_copying_pictures_cannot_wait_for_the_device(shape: tuple[int, ...], on_device: bool) -> None:
    with FakeTensorMode():
        watch = SuspectWatch()
        watch.follow([1, 3], torch.device("cuda"))
        batch = torch.empty(4, *shape, device="cuda", dtype=torch.bfloat16)
        indices: Any = torch.empty(4, dtype=torch.int64, device="cuda") if on_device else [3, 2, 1, 0]
        with _NoCopyBetweenDevices():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            watch.see(indices, batch)
            watch.see(indices, batch)
            watch.mark(indices, torch.empty(4, 224, 180, dtype=torch.int64, device="cuda"))


def test_large_inputs_are_kept_small() -> None:
    watch = watched([0])
    watch.see([0], torch.rand(1, 3, 300, 150))
    watch.take()
    assert watch.pictures[0].shape == (112, 56, 3)


def test_a_trace_has_a_gap_where_the_sample_was_not_followed() -> None:
    watch = watched([3])
    watch.note(0, {"index": np.array([3, 4]), "p_label": np.array([0.5, 0.25])})
    watch.follow([3, 4])
    watch.note(1, {"index": np.array([4, 3, 4]), "p_label": np.array([0.1, 0.2, 0.3])})
    np.testing.assert_array_equal(watch.trace(3), [0.5, 0.2])
    np.testing.assert_array_equal(watch.trace(4), [np.nan, 0.3])  # the last presentation of the epoch
    assert watch.trace(99).tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)
