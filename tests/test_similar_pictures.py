"""Similar samples and prototypes where people look: gallery, TensorBoard, the folder and the report's page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynalens import TrainingDynamicsMonitor, load_record, prototypes, similar_samples
from dynalens.cli import main
from dynalens.logs import dynamics_pictures
from dynalens.pictures import Relative, Suspect, relatives_sheet, suspects_gallery
from dynalens.record import read_similar
from dynalens.report import write_report
from training import Classifier, K, N, dataset, fit

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")


class Still(Classifier):
    """Learns nothing: its features stay, whichever epoch they are of."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingDynamicsMonitor, list[list[Suspect]]]:
    """Three epochs with everything on, and what each gallery was drawn of."""
    folder, galleries = tmp_path_factory.mktemp("similar"), list[list[Suspect]]()

    def noted(suspects: Any, title: str, words: tuple[str, str, str]) -> Image.Image:
        galleries.append(suspects)
        return suspects_gallery(suspects, title, words)

    dynamics = TrainingDynamicsMonitor(features="net.2", similar=2, prototypes=2, top_k=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics_pictures, "suspects_gallery", noted)
        fit(folder, dynamics, model=Still())
    return folder, dynamics, galleries


def features_of(dynamics: TrainingDynamicsMonitor) -> torch.Tensor:
    rows = dynamics._features.rows
    assert rows is not None
    return rows.values.float()


def test_a_run_keeps_what_its_suspects_look_like_by_its_own_features(
    run: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    _, dynamics, _ = run
    record = load_record(dynamics.record.folder)
    similar = read_similar(record.folder, record.meta)
    assert similar is not None
    labels, features = record.statistics.label, features_of(dynamics)
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    for row in similar.rows.tolist():
        given, suggested = similar.similar_to(row)
        for near, label in ((given, labels[row]), (suggested, record.statistics.candidate[row])):
            others = [i for i in range(N) if labels[i] == label and i != row]
            assert near == sorted(others, key=lambda i: -cosine[row, i])[:2]
    assert similar.rows.tolist()[:4] == record.suspects(4).index.tolist()
    assert len(similar.rows) == 5 * 4  # as many as are followed
    saved = load_record(dynamics.save(tmp_path / "copy"))
    copied = read_similar(saved.folder, saved.meta)
    assert copied is not None
    np.testing.assert_array_equal(copied.label_rows, similar.label_rows)


def test_galleries_show_what_a_suspect_looks_like(run: tuple[Path, Any, list[list[Suspect]]]) -> None:
    galleries = run[2]
    last = galleries[-1]
    pictures = [picture for suspect in last for side in suspect.similar for picture in side]
    assert len(pictures) == 2 * 2 * 4
    assert all(picture is not None for picture in pictures)
    without = [Suspect(s.sample_id, s.label, s.suggestion, s.wrong_probability, s.trace, s.picture) for s in last]
    assert suspects_gallery(last, "").height > suspects_gallery(without, "").height


def test_the_sheet_of_prototypes_is_in_the_folder_and_among_the_pictures(run: tuple[Path, Any, Any]) -> None:
    folder, dynamics, _ = run
    with Image.open(dynamics.record.folder / "sheets" / "prototypes.png") as picture:
        sheet = picture.convert("L")
    assert [path.name for path in folder.rglob("prototypes/*.jpg")]
    grey = np.asarray(sheet)
    # A row for each class, with two pictures of each of four kinds, all of them there after three epochs.
    cells = 2 * 4 * 2 * (56 + 5)
    assert sheet.width >= cells
    assert (grey < 230).mean() > 0.2


def test_the_page_shows_what_each_suspect_looks_like(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    _, dynamics, _ = run
    record = load_record(dynamics.record.folder)
    embeddings = features_of(dynamics)
    pages = {
        "kept": write_report(record, tmp_path / "a.html", dataset=dataset()),
        "embeddings": write_report(record, tmp_path / "b.html", embeddings=embeddings),
    }
    np.save(tmp_path / "rows.npy", embeddings.numpy())
    main(["report", str(record.folder), "--embeddings", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "c.html")])
    pages["command"] = tmp_path / "c.html"
    for name, page in pages.items():
        text = page.read_text()
        content = json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[0])
        similar = {str(card["id"]): card["similar"] for card in content["cards"] if "similar" in card}
        assert len(similar) == (20 if name == "kept" else N)
        if name == "kept":
            assert all(
                picture.startswith("data:image/png")
                for side in similar.values()
                for row in side
                for _, picture, _ in row
            )
        else:
            table = similar_samples(record.with_embeddings(embeddings), embeddings, N)
            for sample, sides in similar.items():
                expected = [table[name].loc[int(sample)] for name in ("similar_given", "similar_suggested")]
                assert [[int(i) for i, _, _ in row] for row in sides] == expected
        assert [sheet[0] for sheet in content["sheets"]] == ["prototypes"]


def test_prototypes_of_a_monitor_are_those_of_its_record(run: tuple[Path, Any, Any]) -> None:
    _, dynamics, _ = run
    table = prototypes(dynamics, features_of(dynamics), 2)
    assert sorted(set(table["label"])) == list(range(K))
    assert table.equals(prototypes(load_record(dynamics.record.folder), features_of(dynamics), 2))


@pytest.mark.parametrize("function", ["_similar", "class_examples"])
def test_a_search_for_examples_that_fails_ends_no_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("on purpose")

    alone = fit(tmp_path / "alone")
    monkeypatch.setattr(f"dynalens.logs.dynamics_log.{function}", fails)
    dynamics = TrainingDynamicsMonitor(features="net.2", similar=2, prototypes=2)
    with pytest.warns(UserWarning, match="Pictures of the record are switched off.*RuntimeError: on purpose"):
        watched = fit(tmp_path / "watched", dynamics)
    assert dynamics.record.meta.epochs == [0, 1, 2]
    for one, other in zip(alone.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("option", ["similar", "prototypes"])
def test_options_that_need_features_say_so(option: str) -> None:
    with pytest.raises(
        ValueError, match=f"Expected `{option}` to be 0, or a positive number together with `features`, got 3"
    ):
        TrainingDynamicsMonitor(**{option: 3})  # type: ignore[arg-type]  # a keyword by its name
    with pytest.raises(ValueError, match="got -1 and features='net'"):
        TrainingDynamicsMonitor(features="net", **{option: -1})  # type: ignore[arg-type]  # a keyword by its name


@pytest.mark.parametrize(
    ("name", "values"),
    [("rows", np.array([99])), ("given", np.zeros((1, 2))), ("suggested", np.zeros((1, 3), np.int64))],
)
def test_damaged_files_of_similar_samples_are_refused(
    run: tuple[Path, Any, Any], name: str, values: Any, tmp_path: Path
) -> None:
    _, dynamics, _ = run
    meta = dynamics.record.meta
    arrays: dict[str, Any] = {
        "rows": np.array([0]),
        "given": np.zeros((1, 2), np.int64),
        "suggested": np.zeros((1, 2), np.int64),
    }
    np.savez(tmp_path / "similar.npz", epochs=np.array(meta.epochs), **(arrays | {name: values}))
    with pytest.raises(ValueError, match="The record is damaged"):
        read_similar(tmp_path, meta)
    np.savez(tmp_path / "similar.npz", epochs=np.array([7]), **arrays)  # of other epochs
    assert read_similar(tmp_path, meta) is None


def test_a_sheet_has_a_place_for_each_picture_of_the_widest_row() -> None:
    black = Relative(Image.new("RGB", (4, 4)), "a")
    rows = [("one", {"x": [black, black], "y": [black]}), ("two", {"y": [Relative(None, "gone")]})]
    sheet = np.asarray(relatives_sheet(rows, "title", cell=40).convert("L"))
    # Letters are grey or thin; filled cells of 80 x 80 pixels are the only large black areas.
    assert (sheet[:, :] < 5).sum() >= 3 * 80 * 80
    assert (sheet[:, :] < 5).sum() < 4 * 80 * 80
