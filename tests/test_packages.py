"""Both callbacks work alike in both of Lightning's packages: given, configured, resumed, or asked for."""

import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as other_package
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.cli import LightningCLI as OtherCLI
from PIL import Image
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import AttributionMonitor, LayerMonitor, TrainingDynamicsMonitor, load_record, tcav
from dynalens.callbacks.environment import callbacks_from_environment
from training import K, N, loader

PACKAGES: dict[str, Any] = {"pytorch_lightning": pl, "lightning.pytorch": other_package}
CLIS: dict[str, Any] = {"pytorch_lightning": LightningCLI, "lightning.pytorch": OtherCLI}
pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
]
both = pytest.mark.parametrize("name", PACKAGES)
one = pytest.mark.parametrize("name", ["pytorch_lightning"])
other = pytest.mark.parametrize("name", ["lightning.pytorch"])
"""For what both command lines leave to the same parser: it is asked once, here or there."""


class _Steps:
    """A model of either package, with its own data."""

    net: nn.Module

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def train_dataloader(self) -> Any:
        return loader()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, K))


class Model(_Steps, pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()


class OtherModel(_Steps, other_package.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()


MODELS: dict[str, Callable[[], Any]] = {"pytorch_lightning": Model, "lightning.pytorch": OtherModel}


def trainer(name: str, folder: Path, callbacks: Any, **options: Any) -> Any:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": folder, "enable_checkpointing": False}
    return PACKAGES[name].Trainer(callbacks=callbacks, **(quiet | defaults | options))


@both
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "list"])
@pytest.mark.parametrize("monitor", [TrainingDynamicsMonitor, AttributionMonitor])
def test_a_callback_is_taken_bare_and_in_a_list(tmp_path: Path, name: str, bare: bool, monitor: Any) -> None:
    callback = monitor()
    trainer(name, tmp_path, callback if bare else [callback]).fit(MODELS[name]())
    if monitor is TrainingDynamicsMonitor:
        assert callback.statistics().presentations.tolist() == [1] * N
    else:
        assert len(list((tmp_path / "dynalens" / "explanations").iterdir())) == 1


@both
def test_a_checkpoint_of_one_package_continues_in_either(tmp_path: Path, name: str) -> None:
    first = trainer(name, tmp_path / "first", [TrainingDynamicsMonitor(), AttributionMonitor()])
    first.fit(MODELS[name]())
    first.save_checkpoint(tmp_path / "saved.ckpt")
    for other in PACKAGES:
        resumed = TrainingDynamicsMonitor()
        second = trainer(other, tmp_path / other, [resumed, AttributionMonitor()], max_epochs=3)
        second.fit(MODELS[other](), ckpt_path=tmp_path / "saved.ckpt")
        assert resumed.statistics().presentations.tolist() == [3] * N
        assert len(list(load_record(tmp_path / other).history())) == 3


CONFIGURATION = """
seed_everything: 3
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: dynalens.TrainingDynamicsMonitor
      init_args:
        index: auto
        capture: "module:net"
        class_names: [x, y, z]
        history: false
        features: net.1
        mean_probabilities: true
        x_axis: epoch
    - class_path: dynalens.LayerMonitor
      init_args:
        layer: net.0
        channels: [0, 1]
        weights: true
        feature_maps: 2
        top_inputs: 2
    - class_path: dynalens.AttributionMonitor
      init_args:
        methods: [saliency]
        metrics: [deletion]
        steps: 4
        inputs: test_packages.images_first
        forward: test_packages.logits_of
        every_n_epochs: 1
"""


CONCEPTS = """
seed_everything: 3
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: dynalens.ConceptMonitor
      init_args:
        layer: net.1
        samples: FOLDER/samples
        concepts:
          bright: FOLDER/bright
        random: FOLDER/random
        masks:
          left: FOLDER/left
        top: 0.2
        runs: 2
        transform: test_packages.grey
        forward: test_packages.logits_of
        on_error: raise
"""


def grey(picture: Any) -> Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.float32))[None] / 255


def write_pictures(folder: Path) -> None:
    """Six samples of classes 0 and 2, a concept of bright pictures, random ones, and masks of the left half."""
    rng, names = np.random.default_rng(0), [f"{label}/{number}.png" for label in (0, 2) for number in range(3)]
    sets = {"samples": names, "bright": [f"{number}.png" for number in range(4)]}
    sets |= {"random": [f"{number}.png" for number in range(9)], "left": names}
    for folder_name, files in sets.items():
        for file in files:
            path = folder / folder_name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            values = rng.integers(128 if folder_name == "bright" else 0, 256, (6, 6), dtype=np.uint8)
            values[:, :3] = 255 if folder_name == "left" else values[:, :3]
            values[:, 3:] = 0 if folder_name == "left" else values[:, 3:]
            Image.fromarray(values).save(path)
    (folder / "samples" / "1").mkdir()


@both
def test_the_command_line_reads_concepts_from_folders(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(CONCEPTS.replace("FOLDER", str(tmp_path)))
    given = [f"--config={path}", f"--trainer.logger={name}.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path}"]
    run = CLIS[name](MODELS[name], args=["fit", *given], save_config_callback=None)
    pictures = sorted((tmp_path / "samples").rglob("*.png"))
    x = torch.stack([grey(Image.open(picture)) for picture in pictures])
    sets = {each: torch.stack([grey(Image.open(p)) for p in sorted((tmp_path / each).iterdir())]) for each in SETS}
    logged = pd.read_csv(Path(run.trainer.log_dir) / "metrics.csv")
    for label, rows in ((0, slice(0, 3)), (2, slice(3, 6))):
        table = tcav(run.model, x[rows], label, {"bright": sets["bright"]}, sets["random"], layer="net.1", runs=2)
        assert logged[f"dynalens/concepts/bright/{label}/score"].tolist() == pytest.approx(table["score"].tolist())
    assert "dynalens/concepts/bright/1/score" not in logged
    dumped = run.parser.dump(run.config)
    assert f"left: {tmp_path / 'left'}" in dumped
    assert "transform: test_packages.grey" in dumped


SETS = ("bright", "random")


def images_first(batch: Any) -> tuple[Tensor, Tensor]:
    return batch[0], batch[1]


def logits_of(module: Any, images: Tensor) -> Tensor:
    logits: Tensor = module.net(images)
    return logits


def cli(name: str, folder: Path, *arguments: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(CONFIGURATION)
    given = [f"--config={path}", f"--trainer.default_root_dir={folder}", *arguments]
    return CLIS[name](MODELS[name], args=["fit", *given], save_config_callback=None)


@both
def test_the_command_line_configures_the_callbacks_from_yaml(tmp_path: Path, name: str) -> None:
    run = cli(name, tmp_path, "--trainer.callbacks.init_args.steps=5", "--trainer.callbacks.init_args.num_samples=3")
    dynamics, layers, explaining = run.trainer.callbacks[:3]
    assert (layers.layer, list(layers.channels), layers.feature_maps) == ("net.0", [0, 1], 2)
    assert (dynamics.features, "score_neighbours" in dynamics.table()) == ("net.1", True)
    assert dynamics.statistics().mean_probabilities.shape == (N, K)
    assert dynamics.table()["label_name"].isin(["x", "y", "z"]).all()
    assert (dynamics.history, dynamics.x_axis) == (False, "epoch")
    assert dynamics.statistics().presentations.tolist() == [2] * N
    assert (explaining.methods, explaining.steps, explaining.num_samples) == (("saliency",), 5, 3)
    named = explaining.inputs.__name__, explaining.forward.__name__
    assert named == ("images_first", "logits_of")  # of this file, imported once more by its dotted name
    assert len(list((tmp_path / "dynalens" / "explanations").iterdir())) == 2


def first_word(token: int) -> str:
    return f"word {token}"


def dark(images: Tensor) -> Tensor:
    return torch.zeros_like(images)


def all_ones(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return torch.ones_like(images)


@other
def test_the_command_line_takes_callables_by_their_dotted_paths(tmp_path: Path, name: str) -> None:
    methods = '["saliency", "test_packages.all_ones"]'
    prefix = "--trainer.callbacks.init_args."
    given = (
        f"{prefix}methods={methods}",
        f"{prefix}decode=test_packages.first_word",
        f"{prefix}baseline=test_packages.dark",
    )
    explaining = cli(name, tmp_path, *given).trainer.callbacks[2]
    assert explaining.methods[0] == "saliency"
    assert explaining.methods[1].__name__ == "all_ones"
    assert (explaining.decode(7), explaining.baseline.__name__) == ("word 7", "dark")
    with np.load(tmp_path / "dynalens" / "explanations" / "epoch_000001.npz") as arrays:
        assert set(arrays["all_ones.tie_fraction"]) == {1.0}
        curves = arrays["saliency.deletion.curves"]
    assert len(curves) == 4


@one
def test_a_saved_configuration_is_that_of_the_command_line(tmp_path: Path, name: str) -> None:
    values = {"baseline": "3", "inputs": "test_packages.images_first", "decode": "test_packages.first_word"}
    values |= {"methods": '["saliency","test_packages.all_ones"]', "forward": "test_packages.logits_of"}
    given = [f"--trainer.callbacks.init_args.{key}={value}" for key, value in values.items()]
    run = cli(name, tmp_path, *given)
    dumped = run.parser.dump(run.config, skip_none=False)
    (kept,) = re.findall(r"AttributionMonitor\n *init_args:\n(.*)\n +fast_dev_run", dumped, flags=re.DOTALL)
    for line in ("baseline: 3", "- test_packages.all_ones", *(f"{key}: {values[key]}" for key in ("inputs", "decode"))):
        assert line in kept
    assert "Unable to serialize" not in kept


@other
@pytest.mark.parametrize("path", ["test_packages.no_such_name", "no_such_module.name", "test_packages.VALUES"])
def test_the_command_line_refuses_paths_that_cannot_be_imported(tmp_path: Path, name: str, path: str) -> None:
    with pytest.raises(ValueError, match=rf"dotted paths of callables that can be imported, .*, got \['{path}'\]"):
        cli(name, tmp_path, f"--trainer.callbacks.init_args.methods={path}")


VALUES = (1, 2)
BAD = {
    "a wrong literal": ("--trainer.callbacks.init_args.x_axis=time", "x_axis"),
    "a wrong type": ("--trainer.callbacks.init_args.num_samples=few", "num_samples"),
    "a wrong name": ("--trainer.callbacks.init_args.no_such_argument=1", "no_such_argument"),
    "a wrong literal of the last": ("--trainer.callbacks.init_args.on_error=ignore", "on_error"),
}


@one
@pytest.mark.parametrize(("argument", "said"), BAD.values(), ids=BAD.keys())
def test_the_command_line_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, argument: str, said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli(name, tmp_path, argument)
    assert said in capsys.readouterr().err


@other
def test_the_command_line_passes_the_callbacks_own_errors_on(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="`methods` to be among"):
        cli(name, tmp_path, '--trainer.callbacks.init_args.methods=["gradcam"]')


def filters() -> LayerMonitor:
    return LayerMonitor(weights=True)


def test_the_environment_asks_for_monitors_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(value: str) -> list[str]:
        monkeypatch.setenv("DYNALENS", value)
        return [type(callback).__name__ for callback in callbacks_from_environment()]

    assert asked("") == []
    assert asked("dynamics") == ["TrainingDynamicsMonitor"]
    assert asked("attribution, dynamics") == ["TrainingDynamicsMonitor", "AttributionMonitor"]
    assert asked("dynamics, test_packages.filters") == ["TrainingDynamicsMonitor", "LayerMonitor"]
    names = (
        r"variable DYNALENS to name some of dynamics, attribution, or dotted paths of callables that can be imported"
    )
    with pytest.raises(ValueError, match=rf"{names}, got \['a.b', 'gradcam'\]"):
        asked("gradcam,a.b")
    with pytest.raises(
        ValueError, match=r"Expected builtins.dict of DYNALENS to return a monitor of dynalens, got dict"
    ):
        asked("builtins.dict")
    with pytest.raises(
        ValueError, match=r"ConceptMonitor of DYNALENS to be .* without arguments, got .* Write a function"
    ):
        asked("dynalens.ConceptMonitor")


def installed_in(folder: Path) -> Path:
    """A folder with the distribution's entry points as pyproject.toml has them, whatever is installed."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    info = folder / "installed" / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return info.parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return installed_in(tmp_path)


@both
def test_the_entry_point_is_the_one_that_the_package_asks(installed: Path, name: str) -> None:
    (distribution,) = metadata.distributions(path=[str(installed)])
    (point,) = distribution.entry_points.select(group=f"{name}.callbacks_factory")
    assert point.load() is callbacks_from_environment


@pytest.fixture
def entry_points(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainers read the entry points anew, with those of the distribution."""
    cache: Any = metadata.entry_points  # conftest.py lets them be read once
    monkeypatch.syspath_prepend(installed)
    cache.cache_clear()
    yield
    cache.cache_clear()


@both
@pytest.mark.parametrize("value", ["", "dynamics"], ids=["not asked", "asked"])
@pytest.mark.usefixtures("entry_points")
def test_a_trainer_finds_the_entry_point_and_an_own_instance_stands_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("DYNALENS", value)
    runner = trainer(name, tmp_path, [TrainingDynamicsMonitor()])
    runner.fit(MODELS[name]())
    monitors = [callback for callback in runner.callbacks if isinstance(callback, TrainingDynamicsMonitor)]
    assert [monitor.name for monitor in monitors] == [None, "environment"][: 1 + bool(value)]
    assert (tmp_path / "dynalens" / "record.npz").exists()
    assert (tmp_path / "dynalens" / "environment" / "record.npz").exists() == bool(value)
