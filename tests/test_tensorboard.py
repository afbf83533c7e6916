"""What is written under which tag, and where it goes without TensorBoard."""

import html
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.data import DataLoader, TensorDataset

from dynalens import LayerMonitor, TrainingDynamicsMonitor, load_record
from dynalens.cli import main
from dynalens.faithfulness import METRICS, UNCONTROLLED
from dynalens.logs.dynamics_log import in_words
from dynalens.logs.dynamics_pictures import CHARTS
from dynalens.report import write_report
from dynalens.suspicion import NoiseRate
from dynalens.tensorboard import TAGS, tags_table
from dynalens.text import estimate_in_percent
from test_concepts import monitor as concept_monitor
from test_report import content_of
from training import Classifier, N, attribution_monitor, dataset, fit, images, in_order, labels, loader

PAGE = Path(__file__).parents[1] / "docs" / "tensorboard.md"
KEEP_ALL = {"images": 0, "scalars": 0, "tensors": 0, "histograms": 0}


def events(folder: Path, *callbacks: Any, **options: Any) -> EventAccumulator:
    fit(folder, *callbacks, logger=TensorBoardLogger(folder, name="run"), **({"val": in_order} | options))
    found = EventAccumulator(str(folder / "run" / "version_0"), size_guidance=KEEP_ALL)
    found.Reload()
    return found


def test_the_summary_expects_something_of_flags_only_if_there_are_any() -> None:
    some, none = (in_words(3, np.array(flags), NoiseRate(0.0, 0.1, 0.2)) for flags in ([True, False], [False, False]))
    assert some.startswith("Epoch 3: **1 of 2 samples is flagged**. About 80 % of all flagged labels")
    assert none.startswith("Epoch 3: **0 of 2 samples are flagged**. Estimated noise rate: **10.0 %**")


@pytest.mark.usefixtures("undrawn")
def test_flagged_samples_are_counted_among_those_that_were_seen_wherever_they_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = 10
    found = events(
        tmp_path, TrainingDynamicsMonitor(), data=lambda: loader(sampler=range(seen), shuffle=False), max_epochs=1
    )
    text = found.Tensors("dynalens/summary/text_summary")[-1].tensor_proto.string_val[0].decode()
    run = tmp_path / "run" / "version_0"
    assert main(["suspects", str(run)]) == 0
    of_command = re.findall(r"(\d+) of (\d+) samples (?:is|are) flagged", capsys.readouterr().out)
    assert re.findall(r"\*\*(\d+) of (\d+) samples (?:is|are) flagged", text) == of_command
    flagged = int(of_command[0][0])
    assert of_command == [(str(flagged), str(seen))]
    summary = dict(content_of(write_report(load_record(run), tmp_path / "report.html"))["summary"])
    assert summary["flagged"] == f"{flagged} ({100 * flagged / seen:.1f} %)"


def embeddings_of(folder: Path) -> set[str]:
    """Names of what the projector shows, which stands beside the event file."""
    config = (folder / "run" / "version_0" / "projector_config.pbtxt").read_text()
    return set(re.findall(r'tensor_name: "(.*):\d+"', config))


def tags_of(found: EventAccumulator) -> set[str]:
    tags = found.Tags()
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    every = {*tags["images"], *tags["scalars"], *tags["histograms"], *texts}
    return {tag for tag in every if tag.startswith("dynalens/")}


class Flat(Classifier):
    """Trains on vectors, which are shown as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(36, 3))

    def remember(self, *args: Any) -> None: ...


def flat() -> DataLoader[Any]:
    return loader(TensorDataset(images().flatten(1), labels()))


def test_the_guide_lists_every_tag_of_a_written_event_file_and_no_other(tmp_path: Path) -> None:
    assert tags_table() in PAGE.read_text(encoding="utf-8")
    dynamics = TrainingDynamicsMonitor(features="net.2", projector_every_n_epochs=1, gradient_noise=True, prototypes=1)
    layers = LayerMonitor(
        layer="net.0", weights=True, feature_maps=2, top_inputs=2, maximise="channels", maximise_steps=2
    )
    explained = attribution_monitor(robustness=("fgsm", "blur"))
    written = tags_of(events(tmp_path / "a", dynamics, explained, layers, concept_monitor(), max_epochs=2))
    written |= embeddings_of(tmp_path / "a")
    written |= tags_of(
        events(tmp_path / "b", TrainingDynamicsMonitor(), model=Flat(), data=flat, val=None, max_epochs=2)
    )
    named = {
        "<method>": "(saliency|grad_cam)",
        "<metric>": "(deletion|insertion|symmetric_relevance_gain)",
        "<concept>": "bright",
        "<class>": "[02]",
        "<attack>": "fgsm",
        "<corruption>": "(none|blur)",
    }
    patterns = []
    for tag in TAGS:
        pattern = tag.tag
        for name, meaning in named.items():
            pattern = pattern.replace(name, meaning)
        patterns.append(pattern)
    assert [tag for tag in written if not any(re.fullmatch(p, tag) for p in patterns)] == []
    assert [p for p in patterns if not any(re.fullmatch(p, tag) for tag in written)] == []


def test_pictures_have_the_number_and_the_widths_that_the_guide_says(tmp_path: Path) -> None:
    dynamics = TrainingDynamicsMonitor(max_overhead=None)
    found = events(tmp_path, dynamics, attribution_monitor(), max_epochs=3)
    chart, sheets = re.findall(r"Charts are (\d+) pixels wide .* sheets (\d+ or \d+) wide", PAGE.read_text("utf-8"))[0]
    for tag in found.Tags()["images"]:
        pictures = found.Images(tag)
        widths = {int(chart)} if "/charts/" in tag else {int(width) for width in sheets.split(" or ")}
        assert {picture.width for picture in pictures} <= widths
        if "/film/" not in tag:
            assert len(pictures) == 3 - tag.endswith("/suspects"), tag


def test_one_layout_groups_the_scalars_of_all_monitors(tmp_path: Path) -> None:
    monitors = TrainingDynamicsMonitor(), TrainingDynamicsMonitor(name="b"), attribution_monitor()
    found = events(tmp_path, *monitors, max_epochs=2)
    (written,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(written.tensor_proto.string_val[0])
    metrics = ("deletion", "insertion", "symmetric_relevance_gain")
    assert [category.title for category in layout.category] == [
        "dynalens", "dynalens/b",
        *(f"dynalens {metric} (the shading ends at the random ranking)" for metric in metrics),
        "dynalens attribution_drift",
    ]  # fmt: skip
    scalars = found.Tags()["scalars"]
    assert len([tag for tag in scalars if not tag.startswith("dynalens/b")]) <= 24  # two pages of TensorBoard
    for category in layout.category:
        for chart in category.chart:
            # One line in each, as TensorBoard gives all lines of a run one colour.
            patterns = list(chart.multiline.tag) or [re.escape(series.value) for series in chart.margin.series]
            assert len([tag for tag in scalars if any(re.match(p, tag) for p in patterns)]) == 1, chart.title
    deletion = {chart.title: chart.margin.series[0] for chart in layout.category[2].chart}
    assert list(deletion) == ["saliency: deletion", "grad_cam: deletion"]
    assert deletion["saliency: deletion"].value == "dynalens/faithfulness/saliency/deletion"
    assert {deletion["saliency: deletion"].lower, deletion["saliency: deletion"].upper} == {
        "dynalens/faithfulness/random/deletion", "dynalens/faithfulness/saliency/deletion",
    }  # fmt: skip
    assert {series.lower for series in deletion.values()} <= set(scalars)


def test_metrics_have_shading_in_their_charts_where_a_random_ranking_is_measured(tmp_path: Path) -> None:
    monitor = attribution_monitor(metrics=METRICS)
    scalars = events(tmp_path, monitor, max_epochs=2).Tags()["scalars"]
    controlled = {tag.split("/")[-1] for tag in scalars if tag.startswith("dynalens/faithfulness/random/")}
    assert controlled == set(METRICS) - set(UNCONTROLLED)
    charts = [chart for charts in monitor.tensorboard_layout().values() for chart in charts.items()]
    assert {title.split(": ")[1] for title, (kind, _) in charts if kind == "Margin"} == controlled
    assert {title.split(": ")[1] for title, (kind, _) in charts if kind == "Multiline"} == set(UNCONTROLLED)


def test_charts_and_the_gallery_have_a_picture_for_each_epoch(tmp_path: Path) -> None:
    found = events(tmp_path, TrainingDynamicsMonitor(x_axis="epoch", max_overhead=None), max_epochs=12, val=None)
    for name in ("charts/data_map", "suspects"):
        steps = [picture.step for picture in found.Images(f"dynalens/{name}")]
        assert steps == list(range(0 if name.startswith("charts") else 1, 12))
    sampled = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"images": 10})  # as TensorBoard's
    sampled.Reload()
    shown = [picture.step for picture in sampled.Images("dynalens/charts/data_map")]
    assert len(shown) == 10
    assert shown[-1] == 11  # the newest is always shown
    picture = found.Images("dynalens/suspects")[0].encoded_image_string
    chart = found.Images("dynalens/charts/data_map")[0].encoded_image_string
    assert picture[:2] == b"\xff\xd8"  # JPEG
    assert chart[:4] == b"\x89PNG"


def test_suspects_are_those_that_are_flagged_and_their_overlap_compares_two_epochs(tmp_path: Path) -> None:
    flagged: list[set[int]] = []

    class Notes(TrainingDynamicsMonitor):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            table = self.table()
            flagged.append(set(table.index[table["flagged"]]))

    found = events(tmp_path, Notes(), val=None)
    assert [value.value for value in found.Scalars("dynalens/dynamics/suspects")] == [len(each) for each in flagged]
    overlap = [value.value for value in found.Scalars("dynalens/dynamics/suspects_overlap")]
    expected = [len(a & b) / len(a | b) for a, b in itertools.pairwise(flagged) if a | b]
    assert overlap == pytest.approx(expected)
    assert expected


class TakesPictures(DummyLogger):
    """As Lightning's logger for W&B: pictures through `log_image`."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, tuple[int, int], int]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        assert step is not None
        self.taken += [(key, image.size, step) for image in images]


def test_a_logger_with_log_image_gets_every_picture_and_files_are_written_too(tmp_path: Path) -> None:
    taking = TakesPictures()
    callbacks = TrainingDynamicsMonitor(x_axis="epoch"), attribution_monitor(x_axis="epoch")
    fit(tmp_path, *callbacks, val=in_order, logger=[CSVLogger(tmp_path), taking])
    folder = tmp_path / "lightning_logs" / "version_0" / "dynalens" / "pictures"
    files = {
        (str(path.parent.relative_to(folder)), int(path.stem)): path
        for path in folder.rglob("*")
        if path.suffix in (".jpg", ".png")
    }
    assert {(key.replace(" ", "_"), step) for key, _, step in taking.taken} == set(files)
    assert {Path(key).parts[1] for key, _ in files} == {"charts", "suspects", "explanations", "film"}
    for key, size, step in taking.taken:
        with Image.open(files[key.replace(" ", "_"), step]) as picture:
            assert picture.size == size


def test_inputs_that_are_no_images_have_their_suspects_in_a_table(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(top_k=4, class_names=["<b>", "y", "z"], x_axis="epoch")
    found = events(tmp_path, monitor, model=Flat(), data=flat, val=None)
    (text, *_) = [e.tensor_proto.string_val[0].decode() for e in found.Tensors("dynalens/suspects/table/text_summary")]
    assert len(text.splitlines()) == 2 + 4
    assert "<b>" not in text
    last = found.Tensors("dynalens/suspects/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert [line.split(" | ")[0].strip("| ") for line in last.splitlines()[2:]] == [
        str(i) for i in monitor.suspects(4).index
    ]
    for line, sample in zip(last.splitlines()[2:], monitor.suspects(4).index, strict=True):
        assert line.split(" | ")[1].startswith(f"0: {images().flatten(1)[sample, 0]:.4g}, ")
    assert [line.split(" | ")[4] for line in last.splitlines()[2:]] == [
        html.escape(estimate_in_percent(probability)) for probability in monitor.suspects(4)["wrong_probability"]
    ]


def test_the_gallery_shows_the_inputs_as_they_came_with_their_normalisation_undone(tmp_path: Path) -> None:
    class Normalize:
        mean, std = (0.5,), (0.25,)

    class InPlace(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            batch[0].zero_()
            return loss

    data = dataset()
    data.transform = Normalize()  # type: ignore[attr-defined]  # as torchvision's datasets have it
    monitor = TrainingDynamicsMonitor(top_k=N)
    fit(tmp_path, monitor, model=InPlace(), data=lambda: loader(data))
    record_pictures = load_record(tmp_path).pictures()
    assert set(record_pictures) == set(range(N))
    for i, picture in record_pictures.items():
        expected = (255 * (images()[i, 0] * 0.25 + 0.5).clamp(0, 1)).round()
        assert picture[..., 0].tolist() == expected.tolist()


@pytest.mark.parametrize("part", ["a chart", "the summary"])
def test_a_picture_or_text_that_fails_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("no picture")

    if part == "a chart":
        monkeypatch.setitem(CHARTS, "margins", fails)
    else:
        monkeypatch.setattr("dynalens.logs.dynamics_log.in_words", fails)
    monitor = TrainingDynamicsMonitor()
    with pytest.warns(UserWarning, match="switched off, training goes on: ZeroDivisionError: no picture") as warned:
        fit(tmp_path, monitor)
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert monitor.statistics().presentations.tolist() == [3] * N


def test_a_resumed_run_continues_the_curves_of_its_suspects(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(top_k=N)
    fit(tmp_path / "a", monitor, max_epochs=2)
    traces: list[Any] = []

    class Looks(TrainingDynamicsMonitor):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            assert self._log is not None
            traces.append([self._log.pictures.watch.trace(i) for i in range(N)])

    second = Looks(top_k=N)
    second.load_state_dict(monitor.state_dict())
    fit(tmp_path / "b", second, max_epochs=1)
    history = [p for _, p in load_record(tmp_path / "b").history()]
    for i, trace in enumerate(traces[0]):
        assert trace.tolist() == pytest.approx([float(e["p_label"][e["index"] == i][-1]) for e in history])
