"""The contract: a run with the callbacks ends bit-identical to a run without them."""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynalens import LayerMonitor, TrainingDynamicsMonitor
from dynalens.attribution import BUILT_IN, TOKEN_METHODS
from dynalens.faithfulness import METRICS, METRICS_OF_REGIONS
from dynalens.robustness import CORRUPTIONS
from test_attribution_captum import WORKS
from toys import ToyTransformer
from training import Classifier, K, N, arrays_of, attribution_monitor, images, labels, trainer


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Draws from all three generators."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = images()[i] + 0.1 * torch.randn(1, 6, 6) + float(np.random.normal()) / 10
        return x.flip(2) if random.random() < 0.5 else x, labels()[i]


class Delicate(Classifier):
    """Dropout, batch norm, a frozen batch norm in evaluation mode, momentum, and a buffer that a forward changes."""

    calls: Tensor

    def __init__(self, *, manual: bool = False, own_loss: bool = False) -> None:
        super().__init__()
        self.own_loss = own_loss
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, K),
        )  # fmt: skip
        self.unused = nn.Linear(2, 2)
        self.net[5].requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1))
        self.automatic_optimization = not manual

    def on_train_start(self) -> None:
        self.net[5].eval()  # once: a call of `train()` on the whole would thaw it

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch["a"] if isinstance(batch, dict) else batch
        logits = self(x / N)
        own = -logits.log_softmax(dim=1).gather(1, y[:, None]).mean() if self.own_loss else None
        loss = F.cross_entropy(logits, y) if own is None else own
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        self.manual_backward(loss / 2)
        if batch_idx % 3 == 1:  # half-accumulated gradients are waiting at an epoch's end
            optimizer.step()
            optimizer.zero_grad()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def final_state(runner: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
    """Everything that training leaves behind."""
    state: dict[str, Any] = {f"weights and buffers: {name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(runner.optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer {number}: {parameter}.{name}": value for name, value in values.items()}
    state |= {f"gradient: {name}": parameter.grad for name, parameter in model.named_parameters()}
    state |= {f"training flag: {name}": module.training for name, module in model.named_modules()}
    state["torch generator"] = torch.get_rng_state()
    state["numpy generator"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))  # type: ignore[index]  # the legacy form
    state["Python generator"] = random.getstate()
    return state


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or bool(a == b)

    return [name for name in one | other if not (name in one and name in other and same(one[name], other[name]))]


def shuffled(**options: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(), batch_size=4, shuffle=True, **options)


def run(
    folder: Path,
    callbacks: list[Any],
    *,
    manual: bool,
    error: type[Exception] | None,
    own_loss: bool = False,
    data: Callable[[], Any] = shuffled,
    **options: Any,
) -> Any:
    pl.seed_everything(11, verbose=False)
    model = Delicate(manual=manual, own_loss=own_loss)
    runner = trainer(folder, *callbacks, **({"logger": TensorBoardLogger(folder)} | options))
    train = data()
    val = DataLoader(Augmented(), batch_size=4)
    if error is None:
        runner.fit(model, train, val)
    else:
        with pytest.raises(error, match="on purpose"):
            runner.fit(model, train, val)
    return runner, model


def monitors(loader: str | None = None, *, plain: bool = False, few: bool = False) -> list[Any]:
    """All monitors with all that they can do; or with fewer metrics and corruptions, which run in the same look."""
    return [
        TrainingDynamicsMonitor(
            loader=loader,
            top_k=5,
            audit=6,
            mean_probabilities=True,
            features="net.6",
            gradient_noise="net.8",
            similar=2,
            prototypes=1,
            max_overhead=100.0,
            projector_every_n_epochs=None if plain else 1,
        ),
        attribution_monitor(
            methods=("saliency", "input_x_gradient", "grad_cam"),
            steps=4,
            max_overhead=100.0,
            metrics=("deletion",) if few else METRICS + METRICS_OF_REGIONS,
            masks=lambda batch: torch.ones_like(batch[0][:, 0]),
        ),
        LayerMonitor(
            layer="net.1",
            weights=True,
            feature_maps=2,
            top_inputs=2,
            maximise="classes",
            maximise_steps=3,
            max_overhead=None,
            on_error="raise",
        ),
        attribution_monitor(
            samples=[5, 2],
            steps="auto",
            target="prediction",
            precision="bfloat16",
            name="ids",
            robustness=("fgsm",) if few else ("fgsm", "random_sign", *CORRUPTIONS),
            on_error="raise",
        ),
    ]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"max_epochs": 3},
    "accumulation, clipping and validation in the epoch": {
        "accumulate_grad_batches": 4, "gradient_clip_val": 0.1, "val_check_interval": 2,
    },
    "manual optimisation": {"manual": True},
    # Validation would drop the gradients that wait.
    "gradients that wait": {"manual": True, "limit_val_batches": 0},
    "a loss of its own, no validation": {"own_loss": True, "limit_val_batches": 0},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "indices with the samples": {"data": lambda: shuffled(num_workers=1, in_order=False)},
    "several loaders": {"data": lambda: CombinedLoader({"b": shuffled(), "a": shuffled()}, "max_size_cycle")},
    "pictures as files": {"logger": False},
}  # fmt: skip


DRAWN = ("plain", "several loaders", "pictures as files")
"""Settings whose pictures are drawn: how steps are made is nothing to them."""
ALL_METRICS = ("plain", "gradients that wait", "bf16-mixed")
"""Settings with all metrics and corruptions, which depend on gradients and precision at most."""


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_bit_identical_with_the_callbacks(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    if name not in DRAWN:
        request.getfixturevalue("undrawn")
    options = SETTINGS[name]
    # The second epoch explains suspects and compares maps with the first's; one setting goes on to a third.
    given: dict[str, Any] = {"manual": False, "data": shuffled, "max_epochs": 2} | options
    combined = isinstance(given["data"](), CombinedLoader)
    watching = monitors("a" if combined else None, plain=given.get("logger") is False, few=name not in ALL_METRICS)
    watched = final_state(*run(tmp_path / "with", watching, error=None, **given))
    plain = final_state(*run(tmp_path / "without", [], error=None, **given))
    assert differences(watched, plain) == []
    assert watched["weights and buffers: calls"] > 3
    written = [path.name for path in (tmp_path / "with").rglob("dynalens/explanations/*.npz")]
    assert len(written) == given["max_epochs"]  # the callbacks did work
    last = max(path for path in (tmp_path / "with").rglob("dynalens/explanations/*.npz"))
    assert "suspects_prediction.saliency.deletion.values" in arrays_of(last)
    assert len(list((tmp_path / "with").rglob("dynalens/ids/explanations/*.npz"))) == given["max_epochs"]
    assert list((tmp_path / "with").rglob("dynalens/pictures.npz"))  # pictures of suspects came from the batches


class Several(Augmented):
    """The same images with K labels that are there or not, or K numbers."""

    def __init__(self, *, numbers: bool) -> None:
        self.numbers = numbers

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        y = torch.tensor([float(i >> k & 1) for k in range(K)])
        return super().__getitem__(i)[0], 3.5 * y + i if self.numbers else y


class DelicateOfSeveral(Delicate):
    numbers = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z = self(batch[0] / N)
        loss = F.huber_loss if self.numbers else F.binary_cross_entropy_with_logits
        return loss(z, batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("size", self(batch[0] / N).abs().mean())


@pytest.mark.parametrize("numbers", [False, True])
def test_training_on_several_targets_is_bit_identical_with_the_callbacks(tmp_path: Path, numbers: bool) -> None:
    data = Several(numbers=numbers)

    def ended(folder: str, callbacks: list[Any]) -> dict[str, Any]:
        pl.seed_everything(11, verbose=False)
        module, logger = DelicateOfSeveral(), TensorBoardLogger(tmp_path / folder)
        module.numbers = numbers
        runner = trainer(tmp_path / folder, *callbacks, logger=logger, max_epochs=2, accumulate_grad_batches=2)
        runner.fit(module, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
        return final_state(runner, module)

    dynamics = TrainingDynamicsMonitor(top_k=5, max_overhead=100.0)
    maps = attribution_monitor(steps=2, max_overhead=100.0)
    assert differences(ended("with", [dynamics, maps]), ended("without", [])) == []
    assert dynamics.table()["presentations"].tolist() == [2] * N
    last = max((tmp_path / "with").rglob("dynalens/explanations/*.npz"))
    assert "suspects_label.targets" in arrays_of(last)


class Masked(Augmented):
    """The same images with a class for each of four pixels, one of them void."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        mask = (labels()[i] + torch.arange(4).view(2, 2)) % K
        mask[1, 1] = -100
        return super().__getitem__(i)[0], mask


class DelicateOfPixels(Delicate):
    flat = False

    def __init__(self) -> None:
        super().__init__()
        self.net[7], self.net[8] = nn.Identity(), nn.Conv2d(4, K, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z, y = self(batch[0] / N), batch[1]
        return F.cross_entropy(z.movedim(1, -1).reshape(-1, K), y.view(-1)) if self.flat else F.cross_entropy(z, y)


@pytest.mark.parametrize("flat", [False, True])
def test_training_on_masks_is_bit_identical_with_the_monitor(tmp_path: Path, flat: bool) -> None:
    def ended(folder: str, callbacks: list[Any]) -> dict[str, Any]:
        pl.seed_everything(11, verbose=False)
        module, logger = DelicateOfPixels(), TensorBoardLogger(tmp_path / folder)
        module.flat = flat
        runner = trainer(tmp_path / folder, *callbacks, logger=logger, max_epochs=2, accumulate_grad_batches=2)
        runner.fit(module, DataLoader(Masked(), batch_size=4, shuffle=True))
        return final_state(runner, module)

    dynamics = TrainingDynamicsMonitor(top_k=5)
    assert differences(ended("with", [dynamics]), ended("without", [])) == []
    assert dynamics.table()["presentations"].tolist() == [2] * N
    assert list((tmp_path / "with").rglob("dynalens/pictures.npz"))


class Talkative(Delicate):
    """Its forward pass logs, keeps metrics and a history, and anneals a temperature by what it has counted."""

    calls_of_forward = 0

    def __init__(self) -> None:
        super().__init__()
        self.mean = torchmetrics.MeanMetric()
        self.all = torchmetrics.MetricCollection({"max": torchmetrics.MaxMetric(), "min": torchmetrics.MinMetric()})
        self.history: list[Tensor] = []
        self.by_shape: dict[Any, int] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.summaries: list[dict[str, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls_of_forward += 1
        self.by_shape[x.shape] = self.by_shape.get(x.shape, 0) + 1
        logits = super().forward(x + 0.1 * torch.rand((), generator=self.generator))
        size = logits.detach().abs().mean()
        self.log("size", size, on_step=True, on_epoch=True)
        self.log_dict({"square": size**2}, on_step=False, on_epoch=True)
        if self.trainer.training:
            self.mean.update(size)
            self.all.update(size)
            self.log("metric", self.mean, on_step=False, on_epoch=True)
            self.history.append(logits)
        self.logger.experiment.add_scalar("from forward", size, self.calls_of_forward)  # type: ignore[union-attr]
        self.logger.log_metrics({"also from forward": float(size)}, self.calls_of_forward)  # type: ignore[union-attr]
        return logits / max(0.5, 0.97**self.calls_of_forward)

    def on_train_epoch_end(self) -> None:
        self.summaries.append({key: float(value) for key, value in self.all.compute().items()})
        self.all.reset()

    def kept(self) -> dict[str, Any]:
        values = {f"history {k}": logits.detach() for k, logits in enumerate(self.history)}
        drawn = self.generator.get_state()
        return {**values, "calls": self.calls_of_forward, "shapes": self.by_shape, "all": self.summaries, "rng": drawn}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars in the event file of a run that are not ours."""
    events = EventAccumulator(str(next(folder.rglob("events.*")).parent))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("dynalens/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_logs_counters_and_attributes_of_forward_are_the_same_with_the_callbacks(tmp_path: Path) -> None:
    def ended(folder: str, callbacks: list[Any]) -> dict[str, Any]:
        pl.seed_everything(11, verbose=False)
        module, logger = Talkative(), TensorBoardLogger(tmp_path / folder)
        runner = trainer(tmp_path / folder, *callbacks, logger=logger, max_epochs=2, log_every_n_steps=1)
        runner.fit(module, shuffled(), DataLoader(Augmented(), batch_size=4))
        metrics = {f"metric {name}": value for name, value in runner.callback_metrics.items()}
        attributes = {f"attributes of {name}": list(vars(part)) for name, part in module.named_modules()}
        return {**final_state(runner, module), **module.kept(), **metrics, **attributes}

    layers = LayerMonitor(layer="net.1", feature_maps=1, maximise="classes", maximise_steps=2, on_error="raise")
    maps = attribution_monitor(num_samples=2, suspects=1, steps=2, on_error="raise")
    watched, plain = ended("with", [TrainingDynamicsMonitor(), maps, layers]), ended("without", [])
    assert differences(watched, plain) == []
    assert {"metric size_epoch", "metric square", "metric metric"} <= set(plain)
    assert logged(tmp_path / "with") == logged(tmp_path / "without")
    assert {"from forward", "also from forward", "size_step"} <= set(logged(tmp_path / "with"))
    assert len(list((tmp_path / "with").rglob("dynalens/explanations/*.npz"))) == 2


CNN_METHODS = [
    name for name in BUILT_IN if name not in ("attention_rollout", "gradient_rollout", "transition_attention")
]
FEW: dict[str, dict[str, Any]] = {
    "smooth_grad": {"samples": 2}, "integrated_gradients": {"steps": 2}, "score_cam": {},
}  # fmt: skip


class Patches(Classifier):
    """A transformer of patches: attention in two forms, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.1), ToyTransformer("module"))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])


class Sentences(Dataset[tuple[Tensor, Tensor]]):
    """Tokens (5,), one of which is replaced at random."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        tokens = torch.arange(i, i + 5) % 6
        tokens[torch.randint(5, (1,))] = 1
        return tokens, labels()[i]


class Reader(Classifier):
    """A transformer of tokens, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.net = nn.Sequential(nn.Embedding(6, 4), encoder, nn.Flatten(), nn.Linear(20, K))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])


def captum_arguments() -> dict[str, dict[str, Any]]:
    """Every class of Captum that works, with the arguments that it needs, for images of `Augmented` and `Plain`."""
    renamed = {"conv": "net.0", "pool": "net.2"}
    return {
        f"captum:{name}": {key: renamed.get(value, value) if key == "layer" else value for key, value in given.items()}
        for name, (given, _) in WORKS.items()
    }


class Plain(Classifier):
    """Layers that are used once each, as DeepLift wants them, one of them in place, and a random augmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Conv2d(4, K, 3)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x).flatten(1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0] / N + 0.1 * torch.rand(1)), batch[1])


class Records(Dataset[Any]):
    """Integer images under a key of one's own, behind other entries."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        pixels = torch.randint(0, 255, (1, 6, 6), dtype=torch.uint8)
        return {"kind": labels()[i], "mask": torch.rand(1, 6, 6), "scan": pixels, "meta": {"weight": torch.rand(1)}}


class Scales(Delicate):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch["scan"]), batch["kind"])


MAPS: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[[], Dataset[Any]]]] = {
    "every map of a CNN": (Delicate, {"methods": CNN_METHODS, "method_args": FEW}, Augmented),
    "rollouts": (
        Patches,
        {"methods": ["attention_rollout", "gradient_rollout", "transition_attention", "grad_cam"]},
        Augmented,
    ),
    "every class of Captum": (Plain, {"methods": [*captum_arguments()], "method_args": captum_arguments()}, Augmented),
    "entries seen in the first step": (Scales, {"methods": ["saliency", "grad_cam"]}, Records),
    "tokens": (
        Reader,
        {"methods": [*TOKEN_METHODS, "captum:LayerIntegratedGradients"], "baseline": 1, "decode": str},
        Sentences,
    ),
}


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
@pytest.mark.parametrize(("model", "options", "data"), MAPS.values(), ids=MAPS.keys())
def test_training_is_bit_identical_whatever_map_is_computed(
    tmp_path: Path, model: Callable[[], Any], options: dict[str, Any], data: Callable[[], Dataset[Any]]
) -> None:
    def ended(folder: str, *callbacks: Any) -> dict[str, Any]:
        pl.seed_everything(11, verbose=False)
        module, runner = model(), trainer(tmp_path / folder, *callbacks, max_epochs=2)
        runner.fit(module, DataLoader(data(), batch_size=4, shuffle=True))
        return final_state(runner, module)

    monitor = attribution_monitor(num_samples=2, steps=2, on_error="raise", **options)
    watched = ended("with", TrainingDynamicsMonitor(), monitor)
    assert differences(watched, ended("without")) == []
    last = arrays_of(tmp_path / "with" / "dynalens" / "explanations" / "epoch_000001.npz")
    assert {f"{method}.tie_fraction" for method in options["methods"]} <= set(last)


class Raises(pl.Callback):
    """Another callback that fails in the middle of fit."""

    def __init__(self, hook: str) -> None:
        def fail(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("on purpose")

        setattr(self, hook, fail)


HOOKS = [
    "on_train_batch_start",
    "on_before_backward",
    "on_train_batch_end",
    "on_validation_epoch_end",
    "on_train_epoch_end",
]


DATA: dict[str, Callable[[], Any]] = {
    "one loader": shuffled,
    "indices with the samples": lambda: shuffled(num_workers=1, in_order=False),
    "several loaders": lambda: CombinedLoader({"b": shuffled(), "a": shuffled()}, "max_size"),
}


@pytest.fixture(scope="module")
def ended_without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, Any]]:
    """What training leaves where a callback raises and ours are not there: one fit for each hook and loader."""

    @functools.cache
    def ended(hook: str, kind: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("without")
        return final_state(*run(folder, [Raises(hook)], manual=False, error=RuntimeError, data=DATA[kind]))

    return ended


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("hook", "place", "kind"),
    [
        *((hook, place, "one loader") for hook in HOOKS for place in ("first", "last")),
        ("on_train_batch_end", "first", "indices with the samples"),
        ("on_train_epoch_end", "last", "several loaders"),
    ],
)
def test_training_was_identical_and_unpatched_when_a_callback_raises(
    tmp_path: Path, ended_without: Callable[[str, str], dict[str, Any]], hook: str, place: str, kind: str
) -> None:
    functions = F.cross_entropy, F.nll_loss, F.binary_cross_entropy_with_logits
    watching, failing = monitors("a" if kind == "several loaders" else None, few=True), Raises(hook)
    data = DATA[kind]()
    loaders = data.flattened if isinstance(data, CombinedLoader) else [data]
    before = [dict(vars(loader)) for loader in loaders]
    callbacks = [failing, *watching] if place == "first" else [*watching, failing]
    runner, model = run(
        tmp_path, callbacks, manual=False, error=RuntimeError, data=functools.partial(next, iter([data]))
    )
    assert "process_dataloader" not in vars(runner.strategy)
    assert [type(loader) for loader in loaders] == [DataLoader] * len(loaders)
    assert [dict(vars(loader)) for loader in loaders] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert (F.cross_entropy, F.nll_loss, F.binary_cross_entropy_with_logits) == functions
    assert not torch._C._len_torch_function_stack()
    assert differences(final_state(runner, model), ended_without(hook, kind)) == []


def test_no_function_stays_patched_when_our_own_callback_raises(tmp_path: Path) -> None:
    function, strategy_attributes = F.cross_entropy, "process_dataloader"

    def forward(module: Any, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    callbacks = [TrainingDynamicsMonitor(), attribution_monitor(forward=forward, on_error="raise")]
    runner, model = run(tmp_path, callbacks, manual=False, error=RuntimeError)
    assert F.cross_entropy is function
    assert strategy_attributes not in vars(runner.strategy)
    assert not any(m._forward_hooks for m in model.modules())
    assert model.training
    assert not model.net[5].training


def test_the_comparison_would_notice_a_callback_that_disturbs(tmp_path: Path) -> None:
    def disturbing(action: Callable[[Any], Any]) -> pl.Callback:
        class Disturbs(pl.Callback):
            def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                action(pl_module)

        return Disturbs()

    options: dict[str, Any] = {"manual": True, "limit_val_batches": 0, "error": None}
    plain = final_state(*run(tmp_path / "0", [], **options))
    for number, action in enumerate(
        [lambda m: torch.rand(1), lambda m: m.train(), lambda m: m(images()[:2] / N), lambda m: m.zero_grad()], start=1
    ):
        disturbed = final_state(*run(tmp_path / str(number), [disturbing(action)], **options))
        assert differences(disturbed, plain), number
