"""The smallest step that changes a prediction, by the attacks and the search of ``captum.robust``."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice, check_positive, installed
from dynalens.attribution.passes import as_logits, check_images, connected_logits, model_input
from dynalens.observation import forward_of, undisturbed
from dynalens.robustness.corruptions import Bounds, bounds_of, lead

Forward = Callable[[Tensor], Tensor]

ATTACKS = ("fgsm", "pgd", "random_sign")
_LEVELS = 128
"""Number of different steps. It is half the values of a byte, because the largest step is half of the range."""
_TO_THE_BORDER = 2.5
"""All steps of PGD together, as a multiple of the largest distance. Madry et al. (ICLR 2018) choose it so that the
attack can reach each point within the distance."""


@dataclass(frozen=True)
class SmallestStep:
    """How much images must be changed to change their predictions, as :func:`smallest_step` returns it.

    Attributes:
        steps: Shape ``(N,)``, float32, > 0: the largest change of a value. It is infinite if no step changes the
            prediction.
        images: Shape ``(N, C, *spatial)``: the changed images. If no step changes the prediction, the original image.
        predicted: Shape ``(N,)``, int64: the predicted class of each image.
        changed_to: Shape ``(N,)``, int64: the predicted class of each changed image.

    Example:
        >>> label = torch.tensor([0])
        >>> SmallestStep(torch.tensor([0.5]), torch.zeros(1, 1, 1, 1), label, label + 1).changed
        tensor([True])
    """

    steps: Tensor
    images: Tensor
    predicted: Tensor
    changed_to: Tensor

    @property
    def changed(self) -> Tensor:
        """Whether a step changes the prediction, (N,)."""
        return self.steps.isfinite()


def smallest_step(
    model: nn.Module,
    images: Tensor,
    *,
    attack: str = "fgsm",
    largest: float | None = None,
    bounds: tuple[float, float] | None = None,
    iterations: int = 10,
    seed: int = 0,
    forward: Forward | None = None,
) -> SmallestStep:
    r"""Return the smallest step of an attack that changes each prediction.

    It is an upper bound of the distance from the image to the nearest image of another class. For an image :math:`x`
    with the predicted class c and the logits :math:`z`, a step :math:`\varepsilon` is:

    - "fgsm": :math:`x + \varepsilon\,\mathrm{sign}\,\nabla_x(\max_{k \ne c} z_k - z_c)`.
    - "pgd": ``iterations`` such steps, each of size :math:`2.5\,\varepsilon` divided by their number. After each of
      them, values are brought back to within :math:`\varepsilon` of :math:`x`.
    - "random_sign": each value is changed by :math:`\varepsilon` in a random direction. Compare the attacks with this
      control.

    Values stay within the bounds. The smallest step is found by bisection among 128 steps at equal distances. Bisection
    assumes that a larger step also changes whatever a smaller one changes.

    An image costs up to 20 forward and 9 backward passes with "fgsm", 101 forward and 90 backward passes with "pgd" and
    10 iterations, and 11 forward passes with "random_sign". The model runs in evaluation mode and is left as it was.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015 (FGSM); Madry et al.,
    "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (PGD). ``captum.robust`` computes both
    and does the search. The sources follow the gradient of the cross-entropy, which vanishes if the model is sure. Here
    the attack follows the difference to the logit of the next class, as in Carlini and Wagner, 2017.

    Args:
        model: Returns logits (N, K).
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        attack: "fgsm", "pgd" or "random_sign".
        largest: The largest step. Default: half of the range of the widest channel. With a larger one, an attack may
            turn every image into the same grey.
        bounds: Lowest and highest value of an input. Default: those of each channel of the images.
        iterations: Number of steps of "pgd".
        seed: Seed of the directions of "random_sign".
        forward: Callable(images) that returns logits. Default: ``model``.

    Returns:
        The steps, the changed images, and the predicted classes of both.

    Raises:
        ValueError: If Captum is not installed, the attack is unknown, or an argument is out of its range.

    Example:
        The logits are x and 0, so that 0.5 is at a distance of 0.5 from the other class. Steps are 1/128 apart.

        >>> class Sign(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.cat([x.flatten(1), 0 * x.flatten(1)], dim=1)
        >>> smallest_step(Sign(), torch.tensor([[[[0.5]]]]), largest=1.0, bounds=(-1, 1)).steps
        tensor([0.5078])
    """
    check_positive(iterations=iterations)
    check_images(images, torch.zeros(len(images), dtype=torch.int64))
    x = model_input(model, images)
    limits = bounds_of(x, bounds)
    furthest = float(limits.span.max()) / 2 if largest is None else largest
    if not 0 < furthest < float("inf"):
        raise ValueError(
            f"Expected `largest` to be a step above 0, got {furthest}. Pass a step in the units of the images."
        )
    run = forward_of(model, forward)
    with undisturbed(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"captum\.")  # about gradients of the input, which it switches on
        change = _attack(attack, run, limits, iterations, seed)
        rows = [_smallest(run, row, change, furthest / _LEVELS) for row in torch.split(x, 1)]
    steps, changed_images, predicted, changed_to = zip(*rows, strict=True)
    return SmallestStep(
        torch.tensor(steps, device=x.device), torch.cat(changed_images), torch.cat(predicted), torch.cat(changed_to)
    )


Change = Callable[[Tensor, float, Tensor], Tensor]
"""(image, step, predicted class) -> the changed image."""


def _attack(name: str, run: Forward, limits: Bounds, iterations: int, seed: int) -> Change:
    """Return the callable that changes an image by the attack of this name."""
    check_choice("attack", name, ATTACKS)
    if name == "random_sign":
        return lambda x, step, _: _clip(x + step * _random_signs(x, seed), limits)
    fgsm_class, pgd_class, _ = _captum()
    attack: Any = (fgsm_class if name == "fgsm" else pgd_class)(
        lambda x: connected_logits(run, x, torch.zeros(len(x), dtype=torch.int64, device=x.device)),
        lambda logits, predicted: -lead(logits.float(), predicted),
    )
    attack.bound = lambda x: _clip(x, limits)  # Captum's own bounds are the same for all channels
    (attack if name == "fgsm" else attack.fgsm).zero_thresh = 0.0  # Captum's default sets small gradients to 0
    if name == "fgsm":
        return lambda x, step, predicted: attack.perturb(x, step, predicted).detach()
    return lambda x, step, predicted: attack.perturb(
        x, step, _TO_THE_BORDER * step / iterations, iterations, predicted
    ).detach()


def _smallest(run: Forward, x: Tensor, change: Change, unit: float) -> tuple[float, Tensor, Tensor, Tensor]:
    """Return the smallest step for one image, the changed image, and the predicted classes before and after it.

    Args:
        run: Callable(images) that returns logits.
        x: Shape ``(1, C, *spatial)``.
        change: Changes the image by a step.
        unit: Distance between steps.
    """

    def classes(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = as_logits(run(images), torch.zeros(len(images), dtype=torch.int64, device=images.device))
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "Expected finite logits, got NaN or infinity. Check that the weights and the images are finite."
            )
        return logits.argmax(dim=1)

    predicted = classes(x)
    search = _captum()[2](
        classes, lambda image, level: change(image, level * unit, predicted), "level", 0, _LEVELS + 1, 1,
        mode="binary", correct_fn=lambda classes: bool((classes == predicted).all()),
    )  # fmt: skip
    changed_images, level = search.evaluate(x)
    if changed_images is None:
        return float("inf"), x, predicted, predicted
    return level * unit, changed_images, predicted, classes(changed_images)


def _clip(x: Tensor, limits: Bounds) -> Tensor:
    return torch.maximum(torch.minimum(x, limits.high), limits.low)


def _random_signs(x: Tensor, seed: int) -> Tensor:
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed))
    return (2 * signs - 1).to(x)


def _captum() -> tuple[Any, Any, Any]:
    with installed("Captum", "the smallest step", "captum"):
        from captum.robust import FGSM, PGD, MinParamPerturbation
    return FGSM, PGD, MinParamPerturbation
