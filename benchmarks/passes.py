"""How many passes maps, metrics and checks make, and how their time compares with that of the passes alone.

Passes are counted at the network: images forward, and images whose logits got a gradient. The bound is their number
times the time of one forward pass, and of one forward and one backward pass to the input, at the best batch size.
Run by ``benchmarks/attribution.py``.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from networks import Transformer, random_images, resnet18
from torch import Tensor, nn

from dynalens import (
    ablation_cam,
    attention_rollout,
    average_drop,
    corrupted_margins,
    explain,
    faithfulness_curves,
    gradient_rollout,
    infidelity,
    lime_maps,
    local_fidelity,
    score_cam,
    sensitivity_max,
    smallest_step,
    transition_attention,
)

Forward = Callable[[Tensor], Tensor]
Run = Callable[[Forward], object]
Medians = Callable[[Mapping[str, Callable[[], object]], int], dict[str, float]]


@dataclass
class Counter:
    """Counts the images that pass a network.

    Attributes:
        network: The network.
        forward: Images that passed it.
        backward: Images whose logits got a gradient.
    """

    network: nn.Module
    forward: int = 0
    backward: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's logits, and count."""
        logits = self.network(images)
        assert isinstance(logits, Tensor)
        self.forward += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call, unused-ignore]  # in some torch releases
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


def counted(network: nn.Module, run: Run) -> Counter:
    """Return how many images pass the network while this runs."""
    counter = Counter(network)
    run(counter)
    return counter


def of_cnn(network: nn.Module, x: Tensor, y: Tensor, layer: str, *, few: bool) -> dict[str, Run]:
    """Return by name what is counted for a convolutional network; ``few`` asks for few points."""
    samples = 8 if few else 50
    relevance = explain(network, x, y, methods="saliency").maps["saliency"]
    flat = relevance.abs().sum(dim=1)

    def saliency_of(run: Forward) -> Callable[[Tensor], Tensor]:
        return lambda images: explain(network, images, y, methods="saliency", forward=run).maps["saliency"]

    runs: dict[str, Run] = {
        "saliency and grad_cam": lambda run: explain(network, x, y, forward=run, target_layer=layer),
        "score_cam": lambda run: score_cam(network, x, y, forward=run, target_layer=layer),
        "ablation_cam": lambda run: ablation_cam(network, x, y, forward=run, target_layer=layer),
        f"lime_maps({samples})": lambda run: lime_maps(network, x, y, samples=samples, forward=run),
        "deletion and insertion": lambda run: faithfulness_curves(network, x, y, flat, forward=run),
        "average_drop": lambda run: average_drop(network, x, y, flat, forward=run),
        "infidelity": lambda run: infidelity(network, x, y, relevance, forward=run),
        "sensitivity": lambda run: sensitivity_max(saliency_of(run), x),
        "local_fidelity": lambda run: local_fidelity(network, x, y, flat, forward=run),
        "a corruption": lambda run: corrupted_margins(network, x, y, "blur", forward=run),
    }
    for attack in ("fgsm", "random_sign") if few else ("fgsm", "pgd", "random_sign"):
        runs[attack] = functools.partial(attacked, network, x, attack)
    return runs


def attacked(network: nn.Module, x: Tensor, attack: str, run: Forward) -> object:
    """Return the smallest steps of an attack."""
    return smallest_step(network, x, attack=attack, forward=run)


def of_transformer(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Run]:
    """Return by name what is counted for a vision transformer."""
    return {
        "attention_rollout": lambda run: attention_rollout(network, x, y, forward=run),
        "gradient_rollout": lambda run: gradient_rollout(network, x, y, forward=run),
        "transition_attention": lambda run: transition_attention(network, x, y, forward=run),
    }


def small_cnn() -> nn.Module:
    """Return a network of one convolution, to see whether this runs."""
    layers = {"layer3": nn.Conv2d(3, 4, 3), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers, fc=nn.Linear(4, 10))).eval()


def seconds_of_passes(network: nn.Module, x: Tensor, medians: Medians, rounds: int) -> tuple[float, float]:
    """Return seconds an image of a forward pass, and of a forward and a backward pass, at the better of two batches."""

    def forward(images: Tensor) -> None:
        with torch.no_grad():
            network(images)

    def both(images: Tensor) -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(network(leaf)[:, 0].sum(), [leaf])

    batches = {len(x): x, 2 * len(x): torch.cat([x, x])}
    took = medians({f"forward {n}": functools.partial(forward, images) for n, images in batches.items()}, rounds)
    took |= medians({f"both {n}": functools.partial(both, images) for n, images in batches.items()}, rounds)
    first, second = (min(took[f"{kind} {n}"] / n for n in batches) for kind in ("forward", "both"))
    return first, second


def report_passes(medians: Medians, rounds: int, *, few: bool) -> None:
    """Print for each map, metric and check its passes for each image, and its time over that of the passes.

    Args:
        medians: From candidates and a number of rounds to their seconds, by name.
        rounds: Of which the medians are taken.
        few: Whether it runs, not how fast.
    """
    images, side = (2, 16) if few else (4, 16)
    x, y = random_images(images, side)
    cnn: nn.Module = small_cnn() if few else resnet18(side)
    vit = Transformer(side, width=16 if few else 192).eval()
    print(f"\n{side} x {side}, {images} images: passes for each image, and the time over that of the passes alone")
    for network, runs in ((cnn, of_cnn(cnn, x, y, "layer3", few=few)), (vit, of_transformer(vit, x, y))):
        forward, both = seconds_of_passes(network, x, medians, rounds)
        for name, run in runs.items():
            passed = counted(network, run)
            took = medians({name: functools.partial(run, network)}, rounds)
            least = (passed.forward - passed.backward) * forward + passed.backward * both
            counts = f"{passed.forward / images:6.1f} forward, {passed.backward / images:5.1f} backward"
            print(f"  {name:<24} {counts}: {took[name] / least:5.2f} times the bound", flush=True)
