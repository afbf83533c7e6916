"""TracIn over the checkpoints of a run, computed by Captum, for the last layer or for any layers."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dynalens.arguments import installed
from dynalens.datasets import check_positions
from dynalens.dynamics import Array
from dynalens.influences.checkpoints import Checkpoint, Checkpoints, checkpoint_files, read_checkpoints
from dynalens.influences.last_layer import (
    Forward,
    LastLayer,
    Loss,
    checked_loss,
    cross_entropy,
    linear_layer,
    run_on,
    runner,
)
from dynalens.influences.layers import WEIGHTS, Layers, LayerWeights, loss_of_each, trained_weights
from dynalens.influences.result import Influence
from dynalens.influences.samples import Split, sample_loader, sample_table
from dynalens.observation import checked_logits, two_class_logits, undisturbed
from dynalens.record import KeepsRecord, Record


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The keywords that :func:`influence` and :func:`self_influence` share."""

    layer: str | None = None
    layers: Layers | None = None
    forward: Forward | None = None
    inputs: Split | None = None
    loss: Loss | None = None
    learning_rate: float | None = None
    batch_size: int = 64
    num_workers: int = 0


def influence(
    record: Record | KeepsRecord | None,
    checkpoints: Checkpoints,
    model: nn.Module,
    dataset: Any,
    samples: tuple[Any, Tensor],
    *,
    layer: str | None = None,
    layers: Layers | None = None,
    forward: Forward | None = None,
    inputs: Split | None = None,
    loss: Loss | None = None,
    learning_rate: float | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Influence:
    r"""Return by how much each training sample lowered or raised the loss of some test samples (TracIn).

    The influence of training sample :math:`z'_j` on test sample :math:`z_i` is
    :math:`\sum_t \eta_t\, \nabla\ell(z_i; W_t) \cdot \nabla\ell(z'_j; W_t)`. The sum is over the checkpoints t,
    :math:`\ell` is the loss, :math:`W_t` are the weights of the last layer without its bias, and :math:`\eta_t` is the
    learning rate in the checkpoint. The sum approximates how far the steps on the training sample lowered the loss of
    the test sample. It assumes that training was plain gradient descent.

    For the last layer, a term of the sum is :math:`\eta_t\, (h_i \cdot h'_j)\,(g_i \cdot g'_j)`, where h is the input
    of the layer and g the gradient of the loss at the logits: softmax minus one-hot for cross-entropy. Captum's
    ``TracInCPFast`` computes it. With ``layers``, :math:`W_t` are the trained weights and biases of these layers, and
    Captum's ``TracInCP`` computes the gradient of each sample.

    Each checkpoint costs one forward pass of the dataset, and one forward pass of the test samples for each batch of
    the dataset. With ``layers``, it costs a forward and a backward pass of every single training and test sample. It
    also takes memory for one copy of the chosen weights per test sample and per sample of a batch. Afterwards the
    model, its weights and the random generators are as they were before.

    Source: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020, section 3 and
    appendix F. https://arxiv.org/abs/2002.08484

    Args:
        record: The record of the run, or the monitor that keeps it. It gives ids, suggested labels and the probability
            that each label is wrong. None: ids are positions in the dataset.
        checkpoints: A folder that ``ModelCheckpoint`` wrote, the run's folder, or files. As in Lightning, they are
            unpickled, so pass only files that you trust. If two files are of the same step, only one of them counts.
        model: The module that was trained. Its present weights do not matter.
        dataset: Map-style, N samples, in the order of the record, without random augmentation.
        samples: The M test samples: inputs as ``model`` takes them, and labels.
        layer: Dotted name of the linear layer that gives the logits; default: the last one that does.
        layers: Dotted names of layers whose weights count instead of the last layer's, or "all".
        forward: Callable(inputs) -> logits; default: ``model``, or its only child that gives logits.
        inputs: Callable(batch) -> (inputs, labels) of a batch of ``dataset``; default: the first two of a tuple, or the
            usual keys of a dict.
        loss: Callable(logits, labels) -> sum over samples; default: cross-entropy of one class each.
        learning_rate: Learning rate of all checkpoints. Pass it if they hold none (``save_weights_only``) or several.
        batch_size: Number of training samples in one pass.
        num_workers: Number of processes that read the dataset.

    Returns:
        An :class:`Influence` whose ``values`` have shape ``(M, N)``, float32. Positive: the training sample helped.

    Raises:
        ValueError: If Captum is not installed, the checkpoints are not of this model, the layer does not give the
            logits, or the record is of another dataset.
        TypeError: If the dataset is empty or not map-style.

    Example:
        >>> import pathlib, tempfile
        >>> layer = nn.Linear(1, 2, bias=False)  # weights 0: each class has probability 1/2
        >>> weights = {"weight": torch.zeros(2, 1)}
        >>> content = {"state_dict": weights, "global_step": 1, "optimizer_states": [{"param_groups": [{"lr": 0.5}]}]}
        >>> file = pathlib.Path(tempfile.mkdtemp(), "epoch=0.ckpt")
        >>> torch.save(content, file)
        >>> data = [(torch.tensor([2.0]), 0), (torch.tensor([1.0]), 1)]
        >>> influence(None, file, layer, data, (torch.tensor([[3.0]]), torch.tensor([0]))).values
        array([[ 1.5 , -0.75]], dtype=float32)

        0.5 (2 * 3) (0.25 + 0.25), and 0.5 (1 * 3) (-0.25 - 0.25).
    """
    settings = _Settings(
        layer=layer, layers=layers, forward=forward, inputs=inputs, loss=loss,
        learning_rate=learning_rate, batch_size=batch_size, num_workers=num_workers,
    )  # fmt: skip
    x, y = samples
    if len(y) == 0:
        raise ValueError(
            "Expected `samples` to be inputs and labels of at least one test sample, got none. Pass the samples "
            "whose predictions are to be explained."
        )
    last_step, classes = -1, np.zeros(0, np.int64)

    def influences(tracin: Any, checkpoint: Checkpoint) -> Tensor:
        nonlocal last_step, classes
        if checkpoint.step > last_step:
            last_step, classes = checkpoint.step, _predicted_classes(model, settings, x)
        influences_on_tests: Tensor = tracin.influence((x, y))
        return influences_on_tests

    values = _sum_over_checkpoints(influences, checkpoints, model, dataset, settings, x)
    return Influence(values, np.asarray(y.cpu()), classes, sample_table(record, _loader(dataset, settings)))


def self_influence(
    record: Record | KeepsRecord | None,
    checkpoints: Checkpoints,
    model: nn.Module,
    dataset: Any,
    *,
    layer: str | None = None,
    layers: Layers | None = None,
    forward: Forward | None = None,
    inputs: Split | None = None,
    loss: Loss | None = None,
    learning_rate: float | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> "pd.Series[float]":
    r"""Return the influence of each training sample on itself, :math:`\sum_t \eta_t\, |h_i|^2 |g_i|^2`.

    The sum is over the checkpoints t. :math:`\eta_t` is the learning rate, :math:`h_i` the input of the last layer and
    :math:`g_i` the gradient of the loss at the logits. If only the steps on a sample itself lower its loss, the sample
    is unlike the others or its label is wrong: a higher value is more suspicious. Each checkpoint costs one forward
    pass of the dataset. ``record.table().join(scores)`` adds the values to the table of the record.
    ``docs/results/peoples-labels.md`` compares them with the default order of suspects.

    Source: Pruthi et al. 2020, section 4.1.

    Args:
        record: See :func:`influence`, also for the arguments that are not named here.
        layers: Layers whose weights count, or "all". The influence is then the squared norm of a sample's gradient at
            these weights, times the learning rate, summed over the checkpoints.

    Returns:
        A series with the name ``score_self_influence`` and the index ``sample_id``: N values, each at least 0.

    Raises:
        ValueError: As for :func:`influence`.
        TypeError: As for :func:`influence`.

    Example:
        >>> import pathlib, tempfile
        >>> layer = nn.Linear(1, 2, bias=False)  # weights 0: each class has probability 1/2
        >>> content = {"state_dict": {"weight": torch.zeros(2, 1)}, "global_step": 1}
        >>> file = pathlib.Path(tempfile.mkdtemp(), "epoch=0.ckpt")
        >>> torch.save(content, file)
        >>> data = [(torch.tensor([2.0]), 0), (torch.tensor([1.0]), 1)]
        >>> self_influence(None, file, layer, data, learning_rate=1.0).tolist()  # 2^2 and 1^2, times 1/4 + 1/4
        [2.0, 0.5]
    """
    settings = _Settings(
        layer=layer, layers=layers, forward=forward, inputs=inputs, loss=loss,
        learning_rate=learning_rate, batch_size=batch_size, num_workers=num_workers,
    )  # fmt: skip

    def influences(tracin: Any, _checkpoint: Checkpoint) -> Tensor:
        self_influences: Tensor = tracin.self_influence(outer_loop_by_checkpoints=True)
        return self_influences

    values = _sum_over_checkpoints(influences, checkpoints, model, dataset, settings, None)
    return pd.Series(values, index=sample_table(record, _loader(dataset, settings)).index, name="score_self_influence")


def _sum_over_checkpoints(
    influences: Callable[[Any, Checkpoint], Tensor],
    checkpoints: Checkpoints,
    model: nn.Module,
    dataset: Any,
    settings: _Settings,
    x: Any,
) -> Array:
    """Return the sum of influences over the checkpoints. Afterwards the model is as it was.

    Args:
        influences: Callable(object of Captum, checkpoint) that returns the influences by one checkpoint.
        checkpoints: This and the following: see :func:`influence`.
        model: The model.
        dataset: The training samples.
        settings: The keywords.
        x: Inputs of the test samples. None: the training samples are compared with themselves.
    """
    tracin_classes = _captum_classes()
    check_positions(dataset)
    files, loader = checkpoint_files(checkpoints), _loader(dataset, settings)
    loss = checked_loss(settings.loss) if settings.loss else cross_entropy
    last_layer: LastLayer | None = None
    weights: list[nn.Parameter] | None = None
    rate_sum, values = 0.0, np.zeros((), np.float32)
    with undisturbed(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"captum\.")
        for checkpoint in read_checkpoints(files, settings.learning_rate):
            _load(model, checkpoint)
            if last_layer is None:
                last_layer = _last_layer(model, next(iter(loader))[0] if x is None else x, settings)
                if settings.layers is not None:
                    weights = trained_weights(last_layer, settings.layers, next(iter(loader))[0])
            tracin = _tracin(tracin_classes, last_layer, weights, loader, checkpoint, loss)
            values = values + influences(tracin, checkpoint).float().cpu().numpy()
            rate_sum += checkpoint.learning_rate
    _check_sum(values, rate_sum)
    return values


def _check_sum(values: Array, rate_sum: float) -> None:
    if rate_sum == 0:
        raise ValueError(
            "Expected `checkpoints` with a learning rate above 0, got 0 in all of them: every influence would be "
            "0. Pass `learning_rate=1.0`, with which all checkpoints count equally."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "Expected finite influences, got NaN or infinity. Look for such numbers in the checkpoints or the data."
        )


def _tracin(
    classes: tuple[Any, Any],
    last_layer: LastLayer,
    weights: list[nn.Parameter] | None,
    loader: Any,
    checkpoint: Checkpoint,
    loss: Loss,
) -> Any:
    """Return Captum's object for a checkpoint that the model has loaded: for these weights, or for the last layer."""
    last_layer_class, any_layer_class = classes
    # The model has the weights already. Captum would read each file again for every batch.
    options = {"checkpoints_load_func": lambda _model, _checkpoint: checkpoint.learning_rate}
    if weights is None:
        return last_layer_class(last_layer, last_layer.layer, loader, [checkpoint], loss_fn=loss, **options)
    layers = LayerWeights(last_layer, weights)
    return any_layer_class(layers, loader, [checkpoint], layers=[WEIGHTS], loss_fn=loss_of_each(loss), **options)


def _captum_classes() -> tuple[Any, Any]:
    """Return Captum's class of TracIn for the last layer, and its class for any layer."""
    with installed("Captum", "influence", "captum"):
        from captum.influence import TracInCP, TracInCPFast
    return TracInCPFast, TracInCP


def _last_layer(model: nn.Module, x: Any, settings: _Settings) -> LastLayer:
    run = runner(model, settings.forward, x)
    layer = linear_layer(model, settings.layer, run, x)
    return LastLayer(model, layer, run, own_loss=settings.loss is not None)


def _load(model: nn.Module, checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ValueError(
            f"Expected `checkpoints` of this model, got other weights in {checkpoint.path}: {error}. Pass the "
            "module that was trained."
        ) from error


def _loader(dataset: Any, settings: _Settings) -> DataLoader[Any]:
    return sample_loader(dataset, settings.inputs, batch_size=settings.batch_size, num_workers=settings.num_workers)


def _predicted_classes(model: nn.Module, settings: _Settings, x: Any) -> Array:
    with torch.no_grad():
        output = checked_logits(run_on(model, runner(model, settings.forward, x), x))
        classes: Array = two_class_logits(output).argmax(dim=1).cpu().numpy()
    return classes
