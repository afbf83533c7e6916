"""Activation maximisation: the image that a channel or class answers most."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.observation import captured_output, checked_logits, floating_dtype, module_named, undisturbed, unwrapped

_RATE = 0.05
_START = 0.01  # standard deviation of the first spectrum
_DEGREES = 5.0
_JITTER = 1 / 16  # of the side
_BETAS, _TINY = (0.9, 0.999), 1e-8


def maximise_activation(
    model: nn.Module,
    units: Sequence[int],
    size: Sequence[int],
    *,
    layer: str | None = None,
    low: Tensor | float = 0.0,
    high: Tensor | float = 1.0,
    steps: int = 256,
    seed: int = 0,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Return an image for each unit that maximises it: the logit of a class, or the mean of a channel's map.

    The image is low + (high - low) * sigmoid(x), with x the inverse Fourier transform of the parameters, each scaled by
    1 / max(frequency, 1 / longest side), so that all frequencies are learned equally fast. In each of the steps of Adam
    (learning rate 0.05) it is shifted by up to 1/16 of its sides and rotated by up to 5 degrees.

    Source: Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017, sections "The Enemy of Feature
    Visualization" and "Preconditioning and Parameterization". https://distill.pub/2017/feature-visualization
    Differs from the source: colours are not decorrelated, since images may have any channels, and are not scaled at
    random.

    Args:
        model: In evaluation mode meanwhile and afterwards as it was, its gradients and random numbers included.
        units: Numbers of the classes or channels.
        size: Channels, height and width of an image.
        layer: Dotted name of the layer whose channels they are; None for classes.
        low: Smallest value of a pixel as the model sees it, one or one for each channel, (C,).
        high: The largest.
        steps: Forward and backward passes.
        seed: Of the first image and of shifts and rotations.
        forward: Callable(images) -> logits; default: the model.

    Returns:
        Shape ``(len(units), *size)``, float32, in [low, high], on the model's device.

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
            f"Expected `size` to be channels, height and width, some `units` and positive `steps`, got {tuple(size)}, "
            f"{list(units)} and {steps}. Activation maximisation is for images."
        )
    parameters = next(model.parameters(), torch.empty(0))
    device, run = parameters.device, forward or unwrapped(model)
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.as_tensor(end, dtype=torch.float32, device=device).view(-1, 1, 1) for end in (low, high))
    with undisturbed(model):
        spectrum = _START * torch.randn(len(units), *_frequencies(size), 2, generator=generator)
        spectrum, scale = nn.Parameter(spectrum.to(device)), _scale(size).to(device)
        moments = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
        for step in range(1, steps + 1):
            images = _image(spectrum, scale, size, low, high)
            inputs = transformed(images, generator).to(floating_dtype(model, images))
            gradient = torch.autograd.grad(_activation(model, run, inputs, layer, units), spectrum)[0]
            with torch.no_grad():
                spectrum.add_(_adam(gradient, moments, step), alpha=_RATE)
        return _image(spectrum, scale, size, low, high).detach()


def transformed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (N, C, H, W), each rotated and shifted at random; what comes in repeats the border."""
    n, _, height, width = images.shape
    angle, down, across = ((2 * torch.rand(n, generator=generator) - 1) for _ in range(3))
    angle = angle * math.radians(_DEGREES)
    sin, cos = angle.sin(), angle.cos()
    # In coordinates from -1 to 1, in which the sides of an image that is not square have different lengths.
    rows = [cos, -sin * height / width, 2 * _JITTER * across, sin * width / height, cos, 2 * _JITTER * down]
    theta = torch.stack(rows, dim=1).view(n, 2, 3).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _activation(
    model: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor, layer: str | None, units: Sequence[int]
) -> Tensor:
    if layer is None:
        output = checked_logits(run(images))
    else:
        with captured_output(module_named(model, layer, argument="layer")) as capture:
            run(images)
        output = capture.value
    if output.ndim < 2 or max(units) >= output.shape[1] or min(units) < 0:
        raise ValueError(
            f"Expected units in [0, {output.shape[1] if output.ndim > 1 else 1}) of {layer or 'the logits'}, got "
            f"{list(units)}. Name classes, or channels of a layer that gives (N, C, ...)."
        )
    activations = output[torch.arange(len(units), device=output.device), torch.tensor(units, device=output.device)]
    return activations.float().flatten(1).mean(dim=1).sum() if activations.ndim > 1 else activations.float().sum()


def _frequencies(size: Sequence[int]) -> tuple[int, int, int]:
    return size[0], size[1], size[2] // 2 + 1


def _scale(size: Sequence[int]) -> Tensor:
    height, width = size[1], size[2]
    frequency = torch.hypot(torch.fft.fftfreq(height).unsqueeze(1), torch.fft.rfftfreq(width))
    # The transform divides by the number of pixels; a quarter of its root, as the source's code has it, keeps the
    # sigmoid from being saturated.
    return 0.25 * math.sqrt(height * width) / frequency.clamp(min=1 / max(height, width))


def _image(spectrum: Tensor, scale: Tensor, size: Sequence[int], low: Tensor, high: Tensor) -> Tensor:
    x = torch.fft.irfft2(torch.view_as_complex(spectrum.contiguous()) * scale, s=(size[1], size[2]))
    return low + (high - low) * torch.sigmoid(x)


def _adam(gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Return the step of Adam (Kingma and Ba 2015) without its learning rate."""
    for moment, power, beta in zip(moments, (gradient, gradient.square()), _BETAS, strict=True):
        moment.lerp_(power, 1 - beta)
    first, second = (moment / (1 - beta**step) for moment, beta in zip(moments, _BETAS, strict=True))
    return first / (second.sqrt() + _TINY)
