"""The logits and targets that a step trained on are known, or one error says why not."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from dynalens.capture import BatchLayout, Capture, CaptureError, Presentation, StepCapture, images_and_labels
from dynalens.dynamics import NOT_A_CLASS
from training import Classifier, K, N, fit, fit_undisturbed, loader


class Watch(pl.Callback):
    """Captures each step, as a monitor does."""

    def __init__(self, capture: Capture = "auto") -> None:
        self.capture = StepCapture(capture)
        self.found: list[Presentation | None] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.capture.install(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.capture.start(pl_module)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.capture.before_backward()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(self.capture.finish(outputs, batch))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.capture.close()

    def on_exception(self, *args: Any) -> None:
        self.capture.close()


@pytest.fixture(autouse=True)
def nothing_left_patched() -> Iterator[None]:
    before = {name: getattr(F, name) for name in ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")}
    yield
    assert {name: getattr(F, name) for name in before} == before
    assert not torch._C._len_torch_function_stack()


class WithLoss(Classifier):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.function(logits, y)


class Teacher(Classifier):
    """Logs a second loss without gradients, and the first one twice."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            F.cross_entropy(logits * 2, y)
        F.cross_entropy(logits, y)
        return F.cross_entropy(logits, y)


class ReturnsOutputs(Classifier):
    """Has two losses, and says which logits count."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x / N)
        self.remember(x, logits, y)
        loss = F.cross_entropy(logits, y) + F.cross_entropy(logits.flip(0), y)
        return {"loss": loss, "logits": logits, "targets": y}


def own_loss(logits: Tensor, y: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()


STEPS: dict[str, tuple[Callable[[], Classifier], Capture]] = {
    "F.cross_entropy": (Classifier, "auto"),
    "teacher without gradients": (Teacher, "auto"),
    "returned": (ReturnsOutputs, "auto"),
    "returned, asked for": (ReturnsOutputs, "outputs"),
}


@pytest.mark.parametrize(("model", "capture"), STEPS.values(), ids=STEPS.keys())
def test_logits_and_targets_are_those_of_the_step_and_weights_stay_bit_identical(
    tmp_path: Path, model: Callable[[], Classifier], capture: Capture
) -> None:
    pl.seed_everything(5, verbose=False)
    watch = Watch(capture)
    module = fit_undisturbed(tmp_path, watch, model)
    assert len(watch.found) == len(module.seen)
    for found, (_, _, logits, y) in zip(watch.found, module.seen, strict=True):
        assert found is not None
        torch.testing.assert_close(found.logits.cpu(), logits, rtol=0, atol=0)
        assert torch.equal(found.targets.cpu(), y)


def test_nll_loss_sees_log_probabilities(tmp_path: Path) -> None:
    watch = Watch()
    model = fit(tmp_path, watch, model=WithLoss(lambda z, y: F.nll_loss(z.log_softmax(1), y)))
    assert watch.found[0] is not None
    torch.testing.assert_close(watch.found[0].logits, model.seen[0][2].log_softmax(1))


def test_a_callable_decides(tmp_path: Path) -> None:
    watch = Watch(lambda outputs, batch: (2 * torch.eye(K)[batch[1]], batch[1]))
    fit(tmp_path, watch, model=WithLoss(own_loss))
    assert watch.found[0] is not None
    assert torch.equal(watch.found[0].logits.argmax(1), watch.found[0].targets)


def captured(run: Callable[[Tensor], Any], rows: Tensor, batch: Any = None) -> Presentation | None:
    """One step without a Trainer."""
    capture, model = StepCapture(), nn.Identity()
    capture.install(model)
    try:
        capture.start(model)
        run(rows.requires_grad_())
        return capture.finish(torch.zeros(()), batch)
    finally:
        capture.close()


def test_ignored_targets_are_marked() -> None:
    y = torch.tensor([2, 1, -100])
    found = captured(lambda z: F.cross_entropy(z, y), torch.eye(3))
    assert found is not None
    assert found.targets.tolist() == [2, 1, -100]
    found = captured(lambda z: F.cross_entropy(z, torch.tensor([2, 1, 0]), None, None, 2), torch.eye(3))
    assert found is not None
    assert found.targets.tolist() == [-1, 1, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_logits_become_two_classes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y = torch.tensor([0, 1, 1], dtype=dtype).view(shape)
    found = captured(
        lambda z: F.binary_cross_entropy_with_logits(z, y), torch.tensor([-3.0, 2.0, -1.0], dtype=dtype).view(shape)
    )
    assert found is not None
    assert found.logits.tolist() == [[0, -3], [0, 2], [0, -1]]
    assert found.targets.tolist() == [0, 1, 1]


def steps(runs: list[Callable[[Tensor], Any]], rows: Tensor, batch: Any = None) -> list[Presentation | None]:
    """Some steps of one fit without a Trainer."""
    capture, model = StepCapture(), nn.Identity()
    capture.install(model)
    found = []
    try:
        for run in runs:
            capture.start(model)
            loss = run(rows.clone().requires_grad_())
            capture.before_backward(loss)
            found.append(capture.finish(torch.zeros(()), batch))
    finally:
        capture.close()
    return found


def classes(found: list[Presentation | None]) -> list[list[int]]:
    return [each.targets.tolist() for each in found if each is not None]


def called(loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor, logits: Tensor) -> Tensor:
    return loss(logits, targets)


def with_binary(*targets: list[float]) -> list[Callable[[Tensor], Any]]:
    return [partial(called, F.binary_cross_entropy_with_logits, torch.tensor(y)) for y in targets]


def test_binary_targets_smoothed_by_a_fixed_amount_are_classes_and_others_are_marked_without_waiting() -> None:
    found = steps(with_binary([0.05, 0.95], [0.95, 0.95], [0.95, 0.5], [1.0, 0.05]), torch.zeros(2))
    assert classes(found) == [[0, 1], [1, 1], [1, NOT_A_CLASS], [NOT_A_CLASS, 0]]
    assert found[0] is not None
    assert found[0].source.endswith("(two smoothed classes)")
    assert classes(steps(with_binary([0.9, 0.9], [0.1, 0.9]), torch.zeros(2))) == [[1, 1], [0, 1]]
    assert classes(steps(with_binary([0.0, 0.9], [0.9, 0.0]), torch.zeros(2))) == [[0, 1], [1, 0]]
    assert classes(steps(with_binary([0.0, 1.0], [1.0, 0.9]), torch.zeros(2))) == [[0, 1], [1, NOT_A_CLASS]]


@pytest.mark.parametrize("targets", [[0.0, 0.5], [0.2, 0.4], [0.0, 3.0], [-1.0, 1.0], [0.1, 0.7, 0.9]])
def test_binary_targets_that_are_no_classes_are_refused_in_the_first_batch(targets: list[float]) -> None:
    with pytest.raises(CaptureError, match=r"binary targets to be 0 or 1, or both smoothed by a fixed amount, got \d"):
        steps(with_binary(targets), torch.zeros(len(targets)))


ONE_HOT = torch.eye(3)[[2, 0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.binary_cross_entropy_with_logits])
def test_rows_with_one_1_and_smoothed_ones_are_classes(loss: Any, smoothing: float, dtype: torch.dtype) -> None:
    rows = (ONE_HOT * (1 - smoothing) + smoothing / 3).to(dtype)
    mixed = 0.6 * rows + 0.4 * rows.flip(0)
    found = steps([partial(called, loss, y) for y in (rows, rows.flip(0), mixed)], torch.zeros(4, 3, dtype=dtype))
    # Row by row, classes 2, 0, 1 and 0 are mixed with 0, 1, 0 and 2.
    assert classes(found) == [[2, 0, 1, 0], [0, 1, 0, 2], [NOT_A_CLASS] * 4]
    assert found[0] is not None
    assert found[0].source.endswith(f"(the class with the {'largest target' if smoothing else 'target 1'})")


@pytest.mark.parametrize(
    "rows",
    [0.7 * ONE_HOT + 0.3 * ONE_HOT.flip(0), ONE_HOT * torch.tensor([[0.9], [0.9], [0.8], [0.9]]), torch.rand(4, 3)],
    ids=["mixed", "of several levels", "of a teacher"],
)
def test_soft_targets_are_refused_in_the_first_batch(rows: Tensor) -> None:
    with pytest.raises(CaptureError, match=r"one class index for each of 4 rows .* soft, mixed or multi-label targets"):
        steps([lambda z: F.cross_entropy(z, rows)], torch.zeros(4, 3))


def test_more_labels_than_a_record_keeps_are_refused_with_their_most() -> None:
    rows = torch.zeros(2, 513).index_fill(1, torch.tensor([3, 512]), 1.0)
    text = r"at most 512 labels for each sample, .* got targets of shape \(2, 513\).* record 512 or fewer of the labels"
    with pytest.raises(CaptureError, match=text):
        steps([lambda z: F.binary_cross_entropy_with_logits(z, rows)], torch.zeros(2, 513))


def test_two_classes_that_were_mixed_are_not_taken_for_smoothed_ones() -> None:
    rows = torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(CaptureError, match="soft, mixed or multi-label"):
        steps([lambda z: F.cross_entropy(z, rows)], torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((), ()), ((1,), (1,)), ((1, 1), (1,)), ((1, 1), (1, 1))],
    ids=str,
)
@pytest.mark.parametrize("capture", ["auto", "outputs"])
def test_a_binary_batch_of_one_is_one_row(capture: str, logits: Any, targets: Any) -> None:
    z, y = torch.full(logits, 2.0), torch.ones(targets)
    if capture == "auto" and logits == targets:
        (found,) = steps([lambda rows: F.binary_cross_entropy_with_logits(rows, y)], z)
    else:
        found = StepCapture("outputs").finish({"logits": z, "targets": y}, None)
    assert found is not None
    assert (found.logits.tolist(), found.targets.tolist()) == ([[0, 2]], [1])


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((3,), ()), ((3,), (1,)), ((1, 3), (1, 1)), ((4, 3), (4, 1)), ((4, 3, 1), (4, 1)), ((4, 3, 1, 1), (4, 1, 1))],
    ids=str,
)
def test_axes_of_one_are_no_classes(logits: Any, targets: Any) -> None:
    z = torch.arange(float(torch.Size(logits).numel())).reshape(logits)
    found = StepCapture("outputs").finish({"logits": z, "targets": torch.ones(targets, dtype=torch.int64)}, None)
    assert found is not None
    assert torch.equal(found.logits, z.reshape(-1, 3))
    assert found.targets.tolist() == [1] * (z.numel() // 3)


def again(view: Callable[[Tensor], Tensor], copied: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    y = torch.tensor([0, 1, 2, 0])

    def run(z: Tensor) -> Tensor:
        logits = z * 2
        return F.cross_entropy(logits.view(-1, 3), y.view(-1)) + F.cross_entropy(view(logits), copied(y))

    return run


def unchanged(values: Tensor) -> Tensor:
    return values


VIEWS: list[Callable[[Tensor], Tensor]] = [
    unchanged, lambda z: z.view(4, 3), lambda z: z.reshape(2, 2, 3).flatten(0, 1), lambda z: z.float(),
    lambda z: z.unsqueeze(0).squeeze(0).contiguous().clone(), lambda z: z.double(),
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("copied", [unchanged, lambda y: y.view(-1), lambda y: y.clone(), lambda y: y.int().long()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_logits_and_targets_are_one_loss(
    view: Callable[[Tensor], Tensor], copied: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for found in steps([again(view, copied)] * 2, rows):
        assert found is not None
        assert torch.equal(found.logits, rows * 2)
        assert found.targets.tolist() == [0, 1, 2, 0]


OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "rows turned": again(lambda z: z.flip(0), unchanged),
    "scaled": again(lambda z: z * 2, unchanged),
    "targets turned": again(unchanged, lambda y: y.flip(0)),
    "fewer rows": again(lambda z: z[:2], lambda y: y[:2]),
}


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS.keys())
def test_other_logits_or_targets_are_another_loss(run: Callable[[Tensor], Any]) -> None:
    with pytest.raises(CaptureError, match=r"one classification loss .* got 2: cross_entropy"):
        steps([run], torch.randn(4, 3))


def test_targets_that_differ_in_a_later_step_are_marked() -> None:
    runs = [again(unchanged, lambda y: y.clone()), again(unchanged, lambda y: y.flip(0))]
    assert classes(steps(runs, torch.randn(4, 3))) == [[0, 1, 2, 0], [0, NOT_A_CLASS, NOT_A_CLASS, 0]]


def soft(z: Tensor) -> Tensor:
    return F.cross_entropy(z, torch.full((4, 3), 1 / 3))


def twice(z: Tensor) -> Tensor:
    y = torch.tensor([0, 1, 2, 0])
    return 0.3 * F.cross_entropy(z, y) + 0.7 * F.cross_entropy(z, y.flip(0))


REFUSED: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
    "soft": (soft, torch.zeros(4, 3), r"one class index for each of 4 rows of logits, got .*\(4, 3\), torch.float32"),
    "mixup": (twice, torch.zeros(4, 3), r"one classification loss .* got 2: cross_entropy of \[4, 3\]"),
    "none": (lambda z: z.sum(), torch.zeros(4, 3), r"one classification loss .* got none.*`training_step`"),
    "soft pixels": (
        lambda z: F.cross_entropy(z, torch.full((4, 3, 2, 2), 1 / 3)),
        torch.zeros(4, 3, 2, 2),
        r"\(N, K, H, W\) of pixels, .* got \(4, 3, 2, 2\) and targets \(4, 3, 2, 2\), torch.float32",
    ),
    "one class": (
        lambda z: F.cross_entropy(z, torch.zeros(4).long()),
        torch.zeros(4, 1),
        r"K >= 2 classes, .* got \(4, 1\)",
    ),
    "soft labels": (
        lambda z: F.binary_cross_entropy_with_logits(z, torch.rand(4, 3)),
        torch.zeros(4, 3),
        r"multi-label targets .*Return a dict of `loss`",
    ),
}


@pytest.mark.parametrize(("run", "rows", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_losses_raise(run: Callable[[Tensor], Any], rows: Tensor, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        captured(run, rows)


def test_the_loss_of_a_step_that_raised_is_not_kept() -> None:
    capture, model = StepCapture(), nn.Identity()
    capture.install(model)
    capture.start(model)
    F.cross_entropy(torch.eye(2, requires_grad=True), torch.tensor([0, 1]))
    capture.close()
    capture.close()
    capture.install(model)
    capture.start(model)
    with pytest.raises(CaptureError, match="got none"):
        capture.finish(None, None)
    capture.close()


def test_a_later_step_without_loss_or_result_is_no_presentation() -> None:
    capture, model = StepCapture(), nn.Identity()
    capture.install(model)
    capture.start(model)
    F.cross_entropy(torch.eye(2, requires_grad=True), torch.tensor([0, 1]))
    assert capture.finish(torch.tensor(1.0), None) is not None
    capture.start(model)
    assert capture.finish(None, None) is None
    capture.close()


@pytest.mark.parametrize("capture", ["logits", "module", "", "no_package.function", "math.no_function", "math.pi", "."])
def test_an_unknown_way_is_refused(capture: str) -> None:
    with pytest.raises(ValueError, match=f"Expected `capture` to be 'auto', .* can be imported, got '{capture}'"):
        StepCapture(capture)


@pytest.mark.parametrize("own_labels", [True, False])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_a_step_is_captured_without_waiting_for_the_device(own_labels: bool, ignore_index: int) -> None:
    with FakeTensorMode():  # a value is asked of a tensor that has none
        y = torch.empty(4, dtype=torch.int64)
        targets = y if own_labels else torch.cat([y[:2], y[2:]])
        found = captured(lambda z: F.cross_entropy(z, targets, ignore_index=ignore_index), torch.empty(4, 3), (y,))
    assert found is not None
    assert found.targets.shape == (4,)


def test_an_unknown_layer_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"`capture`.*'nett'.*net"):
        StepCapture("module:nett").install(Classifier())


def test_missing_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="a dict with `logits` and `targets`, got a dict with the keys"):
        fit(tmp_path, Watch("outputs"))


def test_a_layer_needs_a_label_in_the_batch(tmp_path: Path) -> None:
    class Images(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0]).sum()

    with pytest.raises(CaptureError, match=r"one label in the batch .* got 0 in a list\. Pass `capture=`"):
        fit(
            tmp_path,
            Watch("module:net"),
            model=Images(),
            data=lambda: loader(torch.utils.data.TensorDataset(torch.randn(N, 1, 6, 6))),
        )


X, Y = torch.zeros(2, 1, 4, 4), torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        ((X, Y), "auto"),
        ([X, Y], "auto"),
        ({"image": X, "label": Y}, "auto"),
        ({"a": X, "b": Y}, ("a", "b")),
        ({"input_ids": X, "attention_mask": X, "labels": Y}, "auto"),
        ({"deep": (X, Y)}, lambda batch: batch["deep"]),
    ],
)
def test_images_and_labels_are_found(batch: Any, inputs: Any) -> None:
    images, labels = images_and_labels(batch, inputs)
    assert images is X
    assert torch.equal(labels, Y)


def test_inputs_are_found_behind_labels_that_stand_first() -> None:
    images, classes = images_and_labels((Y, X), layout=BatchLayout(labels=(0,)))
    assert images is X
    assert classes is Y


def test_tokens_are_inputs_too() -> None:
    tokens = torch.tensor([[5, 6, 7], [8, 9, 0]])
    assert images_and_labels((tokens, Y))[0] is tokens
    assert images_and_labels({"input_ids": tokens, "labels": Y})[0] is tokens


@pytest.mark.parametrize("batch", [(Y, X), {"label": Y}, (X, Y[:1]), (X, X), ((X, Y), Y)])
def test_a_batch_without_images_is_refused(batch: Any) -> None:
    with pytest.raises(CaptureError, match=r"Expected .* Pass `inputs=` with \(key, key\) or a callable"):
        images_and_labels(batch)
