"""Two metrics by random perturbations of the image: infidelity and maximum sensitivity."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.faithfulness.checks import check_finite
from dynalens.faithfulness.scoring import Forward, scoring

Perturbation = Callable[[Tensor, torch.Generator], Tensor]


def gaussian_noise(standard_deviation: float = 0.1) -> Perturbation:
    """Return a perturbation that draws each value from a normal distribution around 0.

    Example:
        >>> noise = gaussian_noise(0.1)(torch.zeros(10_000), torch.Generator().manual_seed(0))
        >>> noise.std().round(decimals=2), noise.mean().abs() < 0.01
        (tensor(0.1000), tensor(True))
    """

    def draw(images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(images.shape, generator=generator).to(images) * standard_deviation

    return draw


def uniform_noise(radius: float = 0.02) -> Perturbation:
    """Return a perturbation that draws each value uniformly from [-radius, radius].

    Example:
        >>> noise = uniform_noise(0.5)(torch.zeros(10_000), torch.Generator().manual_seed(0))
        >>> noise.abs().max().round(decimals=2), (noise**2).mean().round(decimals=2)  # r, and r^2 / 3
        (tensor(0.5000), tensor(0.0800))
    """

    def draw(images: Tensor, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(images.shape, generator=generator) - 1).to(images) * radius

    return draw


def infidelity(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    perturb: Perturbation | None = None,
    samples: int = 10,
    normalize: bool = False,
    seed: int = 0,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the infidelity: the error with which a map predicts how the target's logit changes. Lower is better.

    :math:`\mathrm{E}_I\bigl[(I^\top \Phi - (z_y(x) - z_y(x - I)))^2\bigr]`, where :math:`x` is the image, :math:`\Phi`
    its map, :math:`I` a random perturbation, and :math:`z_y` the logit of the target. The expectation is estimated by
    the mean over ``samples`` perturbations.

    Source: Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, definition 2.1.

    Args:
        model: This and all arguments that are not listed here: see :func:`faithfulness_curves`.
        maps: Shape of ``images``. If perturbations are small, pass a gradient. If they lead to a baseline, pass
            contributions, such as input x gradient or integrated gradients.
        perturb: Callable(images, generator) that returns I, of the shape of the images. Default: normal with standard
            deviation 0.1.
        samples: Number of perturbations of each image.
        normalize: Scale each map by the factor that makes its infidelity least, as the source does.
        seed: Seed of the generator that ``perturb`` gets.
        chunk_size: Number of images in one forward pass.

    Returns:
        Shape ``(N,)``, float32, >= 0, in squared logits.

    Raises:
        ValueError: If maps and images have different shapes, a map is not finite, or ``samples`` is not positive.

    Example:
        Each pixel is lowered by 1, so the logit, their sum, falls by 2. The map predicts 0 + 3. The squared error is 1.

        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([0])
        >>> one = lambda images, generator: torch.ones_like(images)
        >>> infidelity(score, image, target, torch.tensor([[[[0.0, 3.0]]]]), perturb=one)
        tensor([1.])
    """
    check_positive(samples=samples)
    if maps.shape != images.shape:
        raise ValueError(
            f"Expected `maps` of the shape of `images`, {tuple(images.shape)}, got {tuple(maps.shape)}. "
            "Infidelity needs the map of every channel, before `reduce_channels`."
        )
    check_finite(maps)
    draw, generator = perturb or gaussian_noise(), torch.Generator().manual_seed(seed)
    sums, changes = [], []
    with scoring(model, images, forward=forward, chunk_size=chunk_size) as (scorer, x):
        original = scorer.target_logits(x, targets)
        for _ in range(samples):
            noise = draw(x, generator)
            sums.append((noise * maps.to(x)).flatten(1).sum(dim=1))
            changes.append(original - scorer.target_logits(x - noise, targets))
    predictions, logit_changes = torch.stack(sums).float(), torch.stack(changes)
    if normalize:
        squares = (predictions * predictions).sum(dim=0)
        factor = torch.where(squares > 0, (predictions * logit_changes).sum(dim=0) / squares, 0.0)
        predictions = predictions * factor
    return (predictions - logit_changes).square().mean(dim=0)


def sensitivity_max(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    perturb: Perturbation | None = None,
    samples: int = 10,
    seed: int = 0,
) -> Tensor:
    r"""Return the maximum sensitivity: the largest relative change of a map under small perturbations. Lower is better.

    :math:`\max_\delta \lVert \Phi(x + \delta) - \Phi(x) \rVert_2 / \lVert \Phi(x) \rVert_2`, where :math:`x` is the
    image, :math:`\Phi` its map and :math:`\delta` a random perturbation. The maximum is over ``samples`` perturbations.
    If :math:`\Phi(x)` is 0, it is not divided by its norm.

    Source: Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, section 4.

    Args:
        explain: Callable(images) that returns maps (N, ...) for fixed targets.
        images: Shape ``(N, C, *spatial)``, floating.
        perturb: Callable(images, generator) that returns delta. Default: uniform in [-0.02, 0.02].
        samples: Number of perturbations of each image.
        seed: Seed of the generator that ``perturb`` gets. Torch's own generator is not used.

    Returns:
        Shape ``(N,)``, float32, >= 0.

    Raises:
        ValueError: If ``samples`` is not positive.

    Example:
        The map is linear and the perturbation is the image itself, so that the map doubles.

        >>> double = lambda images, generator: images
        >>> sensitivity_max(lambda x: 3 * x, torch.ones(1, 1, 2, 2), perturb=double)
        tensor([1.])
    """
    check_positive(samples=samples)
    draw, generator = perturb or uniform_noise(), torch.Generator().manual_seed(seed)
    original = explain(images).float().flatten(1)
    norm = original.norm(dim=1)
    scale = torch.where(norm == 0, 1.0, norm)
    largest = torch.zeros_like(norm)
    for _ in range(samples):
        noisy_maps = explain(images + draw(images, generator)).float().flatten(1)
        largest = torch.maximum(largest, (noisy_maps - original).norm(dim=1) / scale)
    return largest
