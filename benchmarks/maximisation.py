"""How strongly images that are made for a unit excite it, moved or not, beside Lucent's defaults and natural images.

A small network is trained on the digits of scikit-learn, 32 x 32. For some channels and all classes it prints the mean,
over units, of the activation over that of the strongest natural image: of the images as they are, and of 64 copies that
are shifted, rotated and scaled; and their roughness (1: white noise). Lucent is compared where it is installed.

    python benchmarks/maximisation.py
"""

import argparse
import functools
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens import maximise_activation
from dynalens.features.maximisation import likeness, random_views, roughness

SIDE, COPIES = 32, 64
Make = Callable[[str | None, list[int], int], Tensor]
"""(layer or None for classes, units, seed) -> an image for each unit."""


def trained(epochs: int) -> tuple[nn.Sequential, Tensor]:
    """Return a network and 500 natural images that it was not trained on, in [0, 1]."""
    digits = load_digits()
    images = F.interpolate(
        torch.from_numpy(digits.images).float().unsqueeze(1) / 16, size=(SIDE, SIDE), mode="bilinear"
    )
    labels = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    widths = (1, 16, 32, 64)
    convolutions = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(1297), 32):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images[batch]), labels[batch]))
            optimizer.step()
    return network.eval(), images[1297:]


def activations(network: nn.Sequential, layer: str | None, images: Tensor) -> Tensor:
    """Return the mean of each channel's map, or the logits, (N, units)."""
    with torch.no_grad():
        found: Tensor = network(images) if layer is None else network[: int(layer) + 1](images).flatten(2).mean(dim=2)
    return found


def makers(network: nn.Sequential, steps: int) -> dict[str, Make]:
    """Return by name what makes images."""

    def ours(layer: str | None, units: list[int], seed: int, **options: Any) -> Tensor:
        return maximise_activation(network, units, (1, SIDE, SIDE), layer=layer, steps=steps, seed=seed, **options)

    found: dict[str, Make] = {
        "dynalens": ours,
        "dynalens, robust=False": functools.partial(ours, robust=False),
        "dynalens, frequency_penalty=0.1": functools.partial(ours, frequency_penalty=0.1),
        "dynalens, frequency_penalty=1": functools.partial(ours, frequency_penalty=1.0),
    }
    try:
        from lucent.optvis import objectives, param, render
    except ImportError:
        print("Lucent is not installed: dynalens alone")
        return found

    def lucent(layer: str | None, units: list[int], seed: int) -> Tensor:
        made = []
        for unit in units:
            torch.manual_seed(seed)
            images = render.render_vis(
                network, objectives.channel(layer or str(len(network) - 1), unit),
                lambda: param.image(SIDE, channels=1), thresholds=(steps,), preprocess=False, progress=False,
                show_image=False, fixed_image_size=SIDE,
            )  # fmt: skip
            made.append(torch.as_tensor(images[-1]).permute(0, 3, 1, 2))
        return torch.cat(made)

    return found | {"Lucent's defaults": lucent}


def report(network: nn.Sequential, natural: Tensor, make: dict[str, Make], seeds: int) -> None:
    """Print how strongly the images excite their units."""
    for layer, units in (("2", list(range(8))), ("4", list(range(8))), (None, list(range(10)))):
        strongest = activations(network, layer, natural)[:, units].amax(dim=0)
        alive = [place for place, value in enumerate(strongest.tolist()) if value > 0]
        chosen = [units[place] for place in alive]
        print(f"\n{'classes' if layer is None else f'channels of layer {layer}'}, {len(chosen)} units, {seeds} seeds")
        for name, make_images in make.items():
            still, moved, rough, took = [], [], [], []
            for seed in range(seeds):
                start = time.process_time()
                images = make_images(layer, chosen, seed)
                took.append(time.process_time() - start)
                generator = torch.Generator().manual_seed(0)
                for image, unit, most in zip(torch.split(images, 1), chosen, strongest[alive].tolist(), strict=True):
                    copies = random_views(image.expand(COPIES, -1, -1, -1), generator)
                    still.append(float(activations(network, layer, image)[0, unit]) / most)
                    moved.append(float(activations(network, layer, copies)[:, unit].mean()) / most)
                    rough.append(float(roughness(image)[0]))
            values = (statistics.mean(column) for column in (still, moved, rough, took))
            still_mean, moved_mean, rough_mean, seconds = values
            print(
                f"  {name:<32} {still_mean:5.2f} as they are, {moved_mean:5.2f} moved, roughness {rough_mean:.2f}, "
                f"{seconds:.1f} s"
            )


def report_diversity(network: nn.Sequential, steps: int) -> None:
    """Print how alike four images of a unit are, and how strong."""
    print("\nchannels of layer 4, four variants of each of 4 units")
    for weight in (0.0, 1.0, 3.0, 10.0):
        images = maximise_activation(
            network, range(4), (1, SIDE, SIDE), layer="4", steps=steps, variants=4, diversity=weight
        )
        maps = network[:5](images).detach()
        own = maps[torch.arange(16), torch.arange(16) // 4].mean()
        print(f"  diversity={weight:<4} likeness {float(likeness(maps, 4).mean()):.2f}, activation {float(own):.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10, help="that the network is trained")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    network, natural = trained(options.epochs)
    report(network, natural, makers(network, options.steps), options.seeds)
    report_diversity(network, options.steps)


if __name__ == "__main__":
    main()
