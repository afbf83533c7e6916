"""Activation maximisation: images that activate a channel or the logit of a class as much as possible."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.observation import (
    captured_output,
    channels_first,
    checked_logits,
    device_of,
    floating_dtype,
    forward_of,
    module_named,
    undisturbed,
)

_RATE = 0.05  # learning rate
_START = 0.01  # standard deviation of the first spectrum
_DEGREES = 5.0  # largest rotation
_JITTER = 1 / 16  # largest shift, as a fraction of the side
_SCALING = 0.1  # largest change of the size, as in the code of the source
_BETAS, _TINY = (0.9, 0.999), 1e-8  # of Adam


def maximise_activation(
    model: nn.Module,
    units: Sequence[int],
    size: Sequence[int],
    *,
    layer: str | None = None,
    low: Tensor | float = 0.0,
    high: Tensor | float = 1.0,
    steps: int = 256,
    variants: int = 1,
    diversity: float = 0.0,
    diversity_layer: str | None = None,
    frequency_penalty: float = 0.0,
    robust: bool = True,
    seed: int = 0,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Return for each unit an image that maximises it. A unit is the logit of a class, or the mean of a channel's map.

    The image is low + (high - low) * sigmoid(x), where x is the inverse Fourier transform of the parameters. Each
    parameter is scaled by 1 / max(frequency, 1 / longest side), so that all frequencies are learned equally fast. Adam
    with a learning rate of 0.05 makes the steps. In each step the image is shifted by up to 1/16 of its sides, rotated
    by up to 5 degrees, and scaled by up to a tenth.

    The objective for a unit with the activation a is :math:`a - |a| (\delta D + \phi F)`. The weights are
    :math:`\delta`, "diversity", and :math:`\phi`, "frequency_penalty". D is the mean cosine similarity of the Gram
    matrices of a layer's maps, over all pairs of variants of the unit. F is the sum of squared differences of
    neighbouring pixels over four times the variance; it is 1 for white noise. Because both are multiplied by
    :math:`|a|`, a weight means the same in each network.

    Source: Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017, sections "The Enemy of Feature
    Visualization", "Preconditioning and Parameterization" and "Diversity".
    https://distill.pub/2017/feature-visualization. Differs from the source: colours are not decorrelated, because
    images may have any number of channels.

    Args:
        model: The model. It runs in evaluation mode and is left as it was, including its gradients and random numbers.
        units: Numbers of the classes or channels.
        size: Channels, height and width of an image.
        layer: Dotted name of the layer that the channels belong to. None: the units are classes.
        low: Smallest value of a pixel as the model sees it: a number, or one for each channel, (C,).
        high: Largest value of a pixel.
        steps: Number of forward and backward passes.
        variants: Number of images of each unit. They follow one another in the result.
        diversity: Weight of the similarity of variants, which is kept low. Try 3.
        diversity_layer: Dotted name of the layer by whose maps the variants are compared. Default: ``layer``.
        frequency_penalty: Weight of the differences of neighbouring pixels, which are kept small. Try 0.1.
        robust: Whether to shift, rotate and scale the image in each step.
        seed: Seed of the first image, and of shifts and rotations.
        forward: Callable(images) that returns logits. Default: the model.

    Returns:
        Shape ``(len(units) * variants, *size)``, float32, in [low, high], on the device of the model.

    Raises:
        ValueError: If an argument is out of its range, the layer is unknown, or it has no such unit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 16))
        >>> bright, dark = maximise_activation(model, [0, 1], (1, 4, 4))
        >>> bool(bright.mean() > 0.8), bool(dark.mean() < 0.2)
        (True, True)
    """
    if len(size) != 3 or min(size) < 1 or not units or steps < 1:  # C, H, W
        raise ValueError(
            f"Expected `size` to be channels, height and width, at least one unit and positive `steps`, got "
            f"{tuple(size)}, {list(units)} and {steps}. Pass for instance `units=[0]` and `size=(3, 224, 224)`."
        )
    terms = _Terms(layer, diversity_layer or layer, variants, diversity, frequency_penalty)
    units = [unit for unit in units for _ in range(variants)]
    device, run = device_of(model), forward_of(model, forward)
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.as_tensor(end, dtype=torch.float32, device=device).view(-1, 1, 1) for end in (low, high))
    with undisturbed(model):
        frequencies = size[1], size[2] // 2 + 1
        spectrum = _START * torch.randn(len(units), size[0], *frequencies, 2, generator=generator)
        spectrum, scale = nn.Parameter(spectrum.to(device)), _scale(size).to(device)
        moments = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
        for step in range(1, steps + 1):
            images = _image(spectrum, scale, size, low, high)
            inputs = (random_views(images, generator) if robust else images).to(floating_dtype(model, images))
            objective = terms.objective(model, run, images, inputs, units)
            gradient = torch.autograd.grad(objective, spectrum)[0]
            with torch.no_grad():
                spectrum.add_(_adam(gradient, moments, step), alpha=_RATE)
        return _image(spectrum, scale, size, low, high).detach()


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (N, C, H, W), each rotated, scaled and shifted at random, and mirrored beyond its edges."""
    n, _, height, width = images.shape
    angle, vertical, horizontal, scale = ((2 * torch.rand(n, generator=generator) - 1) for _ in range(4))
    angle, scale = angle * math.radians(_DEGREES), 1 + _SCALING * scale
    sin, cos = scale * angle.sin(), scale * angle.cos()
    # In coordinates from -1 to 1. In them, the pixels of an image that is not square are not square either.
    rows = [cos, -sin * height / width, 2 * _JITTER * horizontal, sin * width / height, cos, 2 * _JITTER * vertical]
    theta = torch.stack(rows, dim=1).view(n, 2, 3).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def roughness(images: Tensor) -> Tensor:
    """Return the squared differences of neighbouring pixels over four times the variance, (N,): 1 for white noise.

    Example:
        >>> board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
        >>> roughness(board.view(1, 1, 8, 8))
        tensor([2.])
    """
    horizontal = images.diff(dim=3).square().flatten(1).mean(dim=1) if images.shape[3] > 1 else 0.0
    vertical = images.diff(dim=2).square().flatten(1).mean(dim=1) if images.shape[2] > 1 else 0.0
    variance = (images - images.mean(dim=(2, 3), keepdim=True)).square().flatten(1).mean(dim=1)
    return (horizontal + vertical) / (4 * variance.clamp(min=torch.finfo(images.dtype).tiny))


def likeness(maps: Tensor, variants: int) -> Tensor:
    """Return for each unit the mean cosine similarity of the Gram matrices of two of its variants, (units,).

    Args:
        maps: Shape ``(units * variants, C, *spatial)``, the variants of a unit one after another.
        variants: At least 2.

    Example:
        >>> left, right = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> likeness(torch.stack([left, left, left, right]), 2)
        tensor([1., 0.])
    """
    flat = maps.flatten(2)
    grams = F.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1).view(-1, variants, flat.shape[1] ** 2)
    similar = grams @ grams.transpose(1, 2)
    norms = similar.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (similar.sum(dim=(1, 2)) - norms) / (variants * (variants - 1))


@dataclass(frozen=True)
class _Terms:
    """The settings of the objective that :func:`maximise_activation` defines."""

    layer: str | None
    diversity_layer: str | None
    variants: int
    diversity: float
    frequency_penalty: float

    def __post_init__(self) -> None:
        if self.variants < 1 or min(self.diversity, self.frequency_penalty) < 0:
            raise ValueError(
                "Expected `variants` to be at least 1, `diversity` and `frequency_penalty` at least 0, got "
                f"{self.variants}, {self.diversity} and {self.frequency_penalty}. Pass 0 to leave a term out."
            )
        if self.diversity and (self.variants == 1 or self.diversity_layer is None):
            raise ValueError(
                f"Expected several `variants` and a `diversity_layer` with `diversity`, got {self.variants} and "
                f"{self.diversity_layer}. Pass `variants=2` or more, and as `diversity_layer` the layer whose maps "
                "are compared."
            )

    def objective(
        self, model: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor, inputs: Tensor, units: Sequence[int]
    ) -> Tensor:
        """Return the sum of the objective over all units.

        Args:
            model: The model.
            run: Callable that runs the model.
            images: The images, one for each variant of each unit. Their roughness is penalised.
            inputs: The images as the model sees them, for instance rotated.
            units: The unit of each image.
        """
        with ExitStack() as stack:
            names = {name for name in (self.layer, self.diversity_layer if self.diversity else None) if name}
            layers = {name: module_named(model, name, argument="layer") for name in names}
            captures = {name: stack.enter_context(captured_output(layer)) for name, layer in layers.items()}
            logits = run(inputs)
        maps = {name: channels_first(layer, captures[name].value) for name, layer in layers.items()}
        output = checked_logits(logits) if self.layer is None else maps[self.layer]
        activations = _activations(output, units, self.layer or "the logits")
        unit_activations = activations.view(-1, self.variants).sum(dim=1)
        penalty = torch.zeros_like(unit_activations)
        if self.frequency_penalty:
            penalty = penalty + self.frequency_penalty * roughness(images).view(-1, self.variants).mean(dim=1)
        if self.diversity and self.diversity_layer is not None:
            penalty = penalty + self.diversity * likeness(maps[self.diversity_layer].float(), self.variants)
        return (unit_activations - unit_activations.detach().abs() * penalty).sum()


def _activations(output: Tensor, units: Sequence[int], source: str) -> Tensor:
    """Return for each image the activation of its unit, (N,)."""
    if output.ndim < 2 or max(units) >= output.shape[1] or min(units) < 0:
        raise ValueError(
            f"Expected units in [0, {output.shape[1] if output.ndim > 1 else 1}) of {source}, got "
            f"{sorted(set(units))}. Name classes, or channels of a layer that gives (N, C, ...)."
        )
    activations = output[
        torch.arange(len(units), device=output.device), torch.tensor(units, device=output.device)
    ].float()
    return activations.flatten(1).mean(dim=1) if activations.ndim > 1 else activations


def _scale(size: Sequence[int]) -> Tensor:
    """Return the factor of each frequency of the spectrum."""
    height, width = size[1], size[2]
    frequency = torch.hypot(torch.fft.fftfreq(height).unsqueeze(1), torch.fft.rfftfreq(width))
    # The transform divides by the number of pixels. The factor of a quarter of its square root, which is that of the
    # source's code, makes values in which the sigmoid is not saturated.
    return 0.25 * math.sqrt(height * width) / frequency.clamp(min=1 / max(height, width))


def _image(spectrum: Tensor, scale: Tensor, size: Sequence[int], low: Tensor, high: Tensor) -> Tensor:
    x = torch.fft.irfft2(torch.view_as_complex(spectrum.contiguous()) * scale, s=(size[1], size[2]))
    return low + (high - low) * torch.sigmoid(x)


def _adam(gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Return the step of Adam (Kingma and Ba 2015) without its learning rate."""
    for moment, power, beta in zip(moments, (gradient, gradient.square()), _BETAS, strict=True):
        moment.lerp_(power, 1 - beta)
    mean, variance = (moment / (1 - beta**step) for moment, beta in zip(moments, _BETAS, strict=True))
    return mean / (variance.sqrt() + _TINY)
