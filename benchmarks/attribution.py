"""How close maps come to the cost of the passes that their definitions need, and to Captum's.

CPU seconds of one thread, candidates interleaved in one process; ratios of medians. The bound of a map is the number of
its points times one forward and one backward pass to the input, at the best batch size and memory layout.

    python benchmarks/attribution.py --data FOLDER_WITH_NPZ
    python benchmarks/attribution.py --sizes 32 --rounds 3
    python benchmarks/attribution.py --sizes --rounds 3     # the passes of each map, metric and check alone

Processors without bfloat16 instructions are slower in bfloat16 than in float32: there its rows are left out.
"""

import argparse
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from faithfulness import peak_mib
from networks import ResNet18, accuracy, images_of, random_images, resnet18, trained_resnet18
from passes import report_passes
from torch import Tensor

from dynalens import completeness_gap, explain, grad_cam, integrated_gradients, saliency, smooth_grad

Candidate = Callable[[], object]
# By the side of the images: how many, batch sizes of the bound, and the layer for class activation maps.
SETTINGS: dict[int, tuple[int, tuple[int, ...], str]] = {32: (16, (8, 16), "layer3"), 224: (4, (4, 8), "layer4")}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
MOST_SECONDS = 600  # of one measurement of memory
CAPTUM_BATCH = 16
TICK = time.get_clock_info("process_time").resolution


def medians(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each candidate, over rounds that start with another one each time."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            candidates[name]()
            seconds[name].append(max(time.process_time() - start, TICK))  # a small pass can end within one tick
    return {name: statistics.median(values) for name, values in seconds.items()}


def passes(network: ResNet18, images: Tensor, *, backward: bool = True) -> Candidate:
    """Return one forward and one backward pass to the input, or a forward pass alone."""

    def run() -> None:
        if not backward:
            with torch.no_grad():
                network(images)
            return
        x = images.clone().requires_grad_()
        torch.autograd.grad(network(x)[:, 0].sum(), [x])

    return run


def bounds(network: ResNet18, size: int, batches: tuple[int, ...]) -> dict[str, tuple[Candidate, int]]:
    """Return by name the passes whose best gives the bound, and their numbers of images."""
    found = {}
    for batch in batches:
        for layout, memory_format in LAYOUTS.items():
            images = random_images(batch, size)[0].contiguous(memory_format=memory_format)
            found[f"passes of {batch}, {layout}"] = passes(network, images), batch
    return found


def maps(
    network: ResNet18, x: Tensor, y: Tensor, layer: str, samples: int, steps: int
) -> dict[str, tuple[Candidate, int]]:
    """Return by name what is measured, and the number of points that its definition needs."""
    fast = x.contiguous(memory_format=torch.channels_last) if x.shape[-1] > 64 else x
    n = len(x)

    def captum_both() -> None:
        Saliency(network).attribute(x.clone().requires_grad_(), target=y, abs=False)
        LayerGradCam(network, network.get_submodule(layer)).attribute(x, target=y, relu_attributions=True)

    tunnel, integrated = NoiseTunnel(Saliency(network)), IntegratedGradients(network)
    found: dict[str, tuple[Candidate, int]] = {
        "saliency and grad_cam": (lambda: explain(network, fast, y, target_layer=layer), n),
        "  Captum": (captum_both, n),
        f"smooth_grad({samples})": (lambda: smooth_grad(network, fast, y, samples=samples), n * samples),
        f"  Captum, about {CAPTUM_BATCH} at once": (
            lambda: tunnel.attribute(
                x, nt_samples=samples, nt_samples_batch_size=max(CAPTUM_BATCH // n, 1), target=y, abs=False
            ),
            n * samples,
        ),
        f"integrated_gradients({steps})": (lambda: integrated_gradients(network, fast, y, steps=steps), n * steps),
        f"  Captum, batches of {CAPTUM_BATCH}": (
            lambda: integrated.attribute(x, target=y, n_steps=steps, internal_batch_size=CAPTUM_BATCH),
            n * steps,
        ),
    }
    if torch.cpu._is_avx512_bf16_supported():
        found |= {
            "smooth_grad, bfloat16": (
                lambda: smooth_grad(network, fast, y, samples=samples, autocast=True), n * samples,
            ),
            "integrated_gradients, bfloat16": (
                lambda: integrated_gradients(network, fast, y, steps=steps, autocast=True), n * steps,
            ),
        }  # fmt: skip
    return found


def report_times(size: int, samples: int, steps: int, rounds: int, width: int) -> None:
    """Print each map's CPU time over its bound."""
    images, batches, layer = SETTINGS[size]
    network, (x, y) = resnet18(size, width=width), random_images(images, size)
    asked, limits = maps(network, x, y, layer, samples, steps), bounds(network, size, batches)
    cam, forward = "grad_cam alone, over one forward pass", "forward"
    candidates = {name: run for name, (run, _) in (limits | asked).items()}
    candidates[cam] = lambda: grad_cam(network, x, y, target_layer=layer)
    candidates[forward] = passes(network, x, backward=False)
    took = medians(candidates, rounds)
    each = {name: took[name] / number for name, (_, number) in limits.items()}
    best = min(each, key=lambda name: each[name])
    print(f"\n{size} x {size}, {images} images; bound: {best}, {1000 * each[best]:.1f} ms an image")
    for name, (_, points) in asked.items():
        # No pass can have more images than there are points.
        least = min(seconds for limit, seconds in each.items() if limits[limit][1] <= points)
        print(f"  {name:<40} {took[name] / (points * least):5.2f} times the bound")
    print(f"  {cam:<40} {took[cam] / took[forward]:5.2f}")


def peak(name: str, size: int, number: int) -> float:
    """Return by how many MiB this map raises the memory peak of a fresh process."""
    torch.set_num_threads(1)
    network, (x, y) = resnet18(size), random_images(SETTINGS[size][0], size)
    run: dict[str, Candidate] = {
        "saliency of one image": lambda: saliency(network, x[:1], y[:1]),
        "smooth_grad": lambda: smooth_grad(network, x, y, samples=number),
        "integrated_gradients": lambda: integrated_gradients(network, x, y, steps=number),
        "Captum, integrated gradients": lambda: IntegratedGradients(network).attribute(x, target=y, n_steps=number),
    }
    return peak_mib(run[name])


def report_memory(size: int, numbers: list[int]) -> None:
    """Print the memory peaks for growing numbers of points."""
    print(f"\n{size} x {size}: memory above that of network and images, MiB")
    asked = [("saliency of one image", 1)]
    asked += [(name, number) for name in ("smooth_grad", "integrated_gradients") for number in numbers]
    if size == min(SETTINGS):
        asked.append(("Captum, integrated gradients", numbers[0]))
    for name, number in asked:
        print(f"  {name}, n = {number}: {peak_in_a_process(name, size, number)}", flush=True)


def peak_in_a_process(name: str, size: int, number: int) -> str:
    """Return :func:`peak` as text; a child that was killed for its memory would never answer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return f"{pool.apply_async(peak, (name, size, number)).get(MOST_SECONDS):.0f}"
        except multiprocessing.TimeoutError:
            return f"no answer in {MOST_SECONDS} s"


def report_quality(data: str, size: int, train: int, steps: int, *, quick: bool) -> None:
    """Print the error of the steps of integrated gradients, and what bfloat16 changes, on a trained network."""
    images, labels = images_of(data, size)
    network, explained = trained_resnet18(images[:train], labels[:train], width=width_of(quick)), 2 if quick else 16
    x, y = images[train : train + explained], labels[train : train + explained]
    held_out = accuracy(network, images[train : train + 300], labels[train : train + 300])
    print(f"\n{size} x {size}, trained on {train} images, accuracy {held_out:.2f}")
    for rule in ("midpoint", "gauss_legendre"):
        found = integrated_gradients(network, x, y, steps=steps, rule=rule)
        gap = completeness_gap(network, x, y, found).abs().mean()
        print(f"  completeness gap of {steps} steps, {rule}: {float(gap):.4f}")
    for function, arguments in ((smooth_grad, {"samples": steps}), (integrated_gradients, {"steps": steps})):
        call: Any = function
        exact, fast = call(network, x, y, **arguments), call(network, x, y, autocast=True, **arguments)
        change = float((fast - exact).norm() / exact.norm())
        print(f"  {call.__name__}: bfloat16 changes it by {change:.3f} (relative norm)")


def width_of(quick: bool) -> int:
    """Return the channels of the network's stem: few, where it is only asked whether the benchmark runs."""
    return 8 if quick else 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="an .npz file, or a folder with one: images uint8, labels; without it, only times"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", type=int, default=2000, help="images that the network is trained on")
    parser.add_argument("--numbers", type=int, nargs="+", default=[25, 100, 400], help="points of the memory's rows")
    parser.add_argument("--quick", action="store_true", help="few images and steps: whether it runs, not how fast")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module=r"captum\.")
    samples, steps = (2, 2) if options.quick else (25, 50)
    if options.quick:
        SETTINGS[32] = (2, (2,), "layer3")
    for size in options.sizes:
        report_times(size, samples, steps, options.rounds, width_of(options.quick))
        if not options.quick:
            report_memory(size, options.numbers)
    report_passes(medians, options.rounds, few=options.quick)
    if options.data:
        report_quality(options.data, min(options.sizes), options.train, steps, quick=options.quick)


if __name__ == "__main__":
    main()
