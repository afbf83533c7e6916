"""Deletion and insertion: this package beside its peers and beside the passes that the definition needs.

Run as ``OMP_NUM_THREADS=1 python benchmarks/faithfulness.py --data DIR``, where DIR holds an ``.npz`` file with
``images`` and ``labels``. Everything is timed in CPU seconds of one thread in one process, the candidates in turn, and
given as the ratio of medians to the bound: the pure forward passes of exactly the images that the definition needs.
bfloat16 gains only on a processor with instructions for it.
"""

import argparse
import ctypes
import functools
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from curve_jobs import Job
from networks import accuracy, images_of, random_images, resnet18, trained_resnet18
from noisy_runs import Run
from noisy_runs import train as cnn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dynalens.attribution import explain, pixel_relevance
from dynalens.faithfulness import CurveSettings, random_ranking

TOLERANCES = (0.003, CurveSettings().tolerance, 0.012)


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the operations outside the model that compute or copy something.

    What a look at the model copies and compares of its state, once for all curves, is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.count, self.inside = 0, False
        self._state = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: setattr(self, "inside", True)),
            model.register_forward_hook(lambda *_: setattr(self, "inside", False)),
        ]

    def close(self) -> None:
        """Leave the model."""
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        allocates = func.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.detach)
        state = any(isinstance(each, Tensor) and each.data_ptr() in self._state for each in args)
        self.count += not (self.inside or aliases or allocates or state)
        return func(*args, **(kwargs or {}))


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def peak_mib(function: Callable[[], object]) -> float:
    """Return by how much a call raises the process's memory at its peak; NaN where the system does not tell."""

    def status(key: str) -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    try:
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # what was freed earlier would hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        function()
        return max(0.0, status("VmHWM") - before)
    except (OSError, StopIteration):
        return float("nan")


def best_bound(job: Job, *, low: bool) -> tuple[float, str, Callable[[], None]]:
    """Return seconds for each image, name and function of the fastest layout and batch size."""
    choices = [(batch, last) for batch in (8, 16, 32) for last in (False, True)]
    scored = min(32, job.scored)
    timed = {
        choice: cpu_seconds(functools.partial(job.bound, choice[0], low=low, last=choice[1], scored=scored)) / scored
        for choice in choices
    }
    batch, last = min(timed, key=lambda choice: timed[choice])
    how = f"{batch} at a time, {'channels_last' if last else 'contiguous'}"
    return timed[batch, last], how, functools.partial(job.bound, batch, low=low, last=last)


def candidates(job: Job) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    exact = CurveSettings("zero", job.steps)
    high, how, bound = best_bound(job, low=False)
    print(f"  bound: {job.scored} images, {how}")
    found: dict[str, Callable[[], object]] = {"bound float32": bound}
    found["own exact"] = lambda: job.own(exact)
    found["own adaptive float32"] = lambda: job.own(replace(exact, steps="auto"))
    low, how, bound = best_bound(job, low=True)
    if low < high:
        print(f"  bound in bfloat16: {how}")
        found["bound bfloat16"] = bound
        found["own fast"] = lambda: job.own(replace(exact, precision="bfloat16"))
        found["own adaptive bfloat16"] = lambda: job.own(replace(exact, steps="auto", precision="bfloat16"))
    else:
        print(f"  bfloat16 takes {low / high:.1f} times as long on this processor and is not timed")
    found["RISE"] = job.rise
    if importlib.util.find_spec("torchcam"):
        found["torchcam"] = job.torchcam
    if importlib.util.find_spec("quantus"):
        found |= quantus_candidate(job)
    return found


def quantus_candidate(job: Job) -> dict[str, Callable[[], object]]:
    """Return Quantus' deletion, named with the number of images that it scores, if it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scored = job.quantus()
    except Exception as error:  # noqa: BLE001  # whatever a peer fails with is its result
        print(f"  Quantus does not run: {type(error).__name__}: {str(error)[:100]}")
        return {}
    return {f"Quantus, of {scored} images for one curve": job.quantus}


def timings(found: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each candidate; the order rotates."""
    names, seconds = list(found), {name: [] for name in found}  # type: ignore[var-annotated]  # lists of floats
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seconds[name].append(cpu_seconds(found[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def report_time(job: Job, rounds: int) -> None:
    """Print seconds, ratios and memory."""
    found = candidates(job)
    medians = timings(found, rounds)
    bound = medians["bound float32"]
    for name, seconds in medians.items():
        ratios = f"{seconds / bound:6.2f} x bound"
        if name.startswith("Quantus"):
            images = int(name.split()[2])
            ratios = f"{seconds / bound * job.scored / images:6.2f} x bound for each image scored"
        elif "torchcam" in medians:
            ratios += f", {medians['torchcam'] / seconds:5.2f} x faster than torchcam"
        ratios += f", {medians['RISE'] / seconds:5.2f} x faster than RISE" if not name.startswith("Quantus") else ""
        memory = peak_mib(found[name])
        print(f"  {name:34s} {seconds:8.2f} CPU s, {ratios}, peak + {memory:.0f} MiB")


def report_agreement(job: Job) -> None:
    """Print how far the curves are from RISE's and from each other."""
    exact, rise = job.own(CurveSettings("zero", job.steps)), job.rise()
    low = job.own(CurveSettings("zero", job.steps, precision="bfloat16"))
    curve = max(float((exact[name].values - rise[name]).abs().max()) for name in exact)
    area = max(float((exact[name].areas - low[name].areas).abs().max()) for name in exact)
    print(f"  exact against RISE: curves within {curve:.1e}; fast against exact: areas within {area:.4f}")
    single = [replace(job, images=x[None], targets=y[None], maps=m[None]).rise() for x, y, m in zip(
        job.images, job.targets, job.maps, strict=True
    )]  # fmt: skip
    apart = max(float((torch.cat([one[name] for one in single]) - rise[name]).abs().max()) for name in rise)
    double = job.double()
    rise, exact = double.rise(), double.own(CurveSettings("zero", job.steps))
    within = max(float((exact[name].values - rise[name]).abs().max()) for name in rise)
    print(f"  in float64 within {within:.1e}; RISE, images one by one, against RISE in float32: {apart:.1e}")
    if importlib.util.find_spec("torchcam"):
        peer = job.torchcam()
        gap = max(abs(float(exact[name].areas.mean()) - peer[f"{name}_auc"]) for name in exact)
        print(f"  exact against torchcam: mean areas within {gap:.1e}")


def report_adaptive(job: Job, reference: int) -> None:
    """Print evaluations, error and coverage of adaptive and even curves against many even steps, for three maps."""
    layer = "layer3" if hasattr(job.model, "layer3") else None
    cam = explain(job.model, job.images, job.targets, methods=["grad_cam"], target_layer=layer).maps["grad_cam"]
    maps = [job.maps, random_ranking(job.images), pixel_relevance("grad_cam", cam, job.images.shape[2:])]
    chosen = {f"adaptive, tolerance {t}": CurveSettings("zero", "auto", tolerance=t) for t in TOLERANCES}
    chosen |= {f"{steps} even steps": CurveSettings("zero", steps) for steps in (job.steps // 2, job.steps)}
    rows: dict[str, list[Tensor]] = {label: [] for label in chosen}
    for one in (replace(job, maps=of) for of in maps):
        fine = one.own(CurveSettings("zero", reference))
        for label, settings in chosen.items():
            for name, curve in one.own(settings).items():
                error = (curve.areas - fine[name].areas).abs()
                rows[label].append(torch.stack([curve.evaluations.float(), error, curve.errors]))
    for label, parts in rows.items():
        evaluations, error, estimate = torch.cat(parts, dim=1)
        covered = float((estimate >= error).float().mean())
        print(
            f"  {label:25s} {float(evaluations.mean()):5.1f} evaluations a curve (at most {int(evaluations.max())}), "
            f"error mean {float(error.mean()):.4f}, largest {float(error.max()):.4f}; estimate covers "
            f"{100 * covered:.1f} % of {len(error)} curves"
        )


def report_launches(job: Job) -> None:
    """Print the launches outside the model, with the chunks that an accelerator takes."""
    for baseline in ("zero", "blur"):
        launches = Launches(job.model)
        with launches:
            job.own(CurveSettings(baseline, job.steps, chunk_size=1024))
        launches.close()
        print(
            f"  operations outside the model, {len(job.images)} images, {job.steps} steps, both curves, "
            f"{baseline} baseline: {launches.count}"
        )
    if torch.cuda.is_available():
        report_gpu(job)


def report_gpu(job: Job) -> None:
    """Print kernels outside the model and waits of the host, as a GPU sees them."""
    moved = Job(job.model.cuda(), job.images.cuda(), job.targets.cuda(), job.maps.cuda(), job.steps)
    settings = CurveSettings("zero", job.steps)
    passes: list[int] = []
    hook = moved.model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    moved.own(settings)  # what is made once
    passes.clear()
    everything = kernels(lambda: moved.own(settings))
    hook.remove()

    def pure() -> None:
        for size in passes:
            moved.bound(size, low=False, last=False, scored=size)

    within = kernels(pure)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        moved.own(settings)
        torch.cuda.set_sync_debug_mode("default")
    synchronised = sum("synchronizing" in str(warning.message) for warning in waits)
    print(
        f"  on the GPU: {everything - within} kernels and copies outside the model; the host waits {synchronised} times"
    )
    job.model.cpu()


def kernels(function: Callable[[], object]) -> int:
    """Return how many kernels and copies a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profile.events())


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return a map without ties."""
    maps = explain(model, images, targets, methods=["saliency"]).maps["saliency"]
    return pixel_relevance("saliency", maps, images.shape[2:])


def trained(options: argparse.Namespace, size: int, number: int, train: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a briefly trained network and images that it has not seen."""
    images, labels = images_of(options.data)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))[: number + train]
    images, labels = images[chosen], labels[chosen]
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear")
    model: nn.Module
    if options.network == "cnn":
        run = Run("judged", options.data.stem, "uniform", 0, False, options.epochs, options.seed)
        model = cnn(images[number:], labels[number:].numpy(), run, classes=10)[1].eval()
    else:
        model = trained_resnet18(images[number:], labels[number:], epochs=options.epochs)
    right = accuracy(model, images[:number], labels[:number])
    print(f"  trained on {train} images, {options.epochs} epochs; {right:.0%} of the {number} others are right")
    return model, images[:number].contiguous(), labels[:number]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or file with images and labels to train on briefly")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="of timing; 0: only adaptive curves")
    parser.add_argument("--images", type=int, help="how many are explained; default: 16 small or 8 large ones")
    parser.add_argument(
        "--train", type=int, help="how many a network is trained on; default: 1500 small or 320 large ones"
    )
    parser.add_argument("--reference", type=int, default=256, help="even steps that adaptive curves are compared with")
    parser.add_argument("--compared", type=int, default=8, help="images whose adaptive curves are compared")
    parser.add_argument("--network", choices=("resnet18", "cnn"), default="resnet18", help="cnn: that of noisy_runs.py")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="which images a network is trained on and explained for")
    parser.add_argument("--quick", action="store_true", help="noise, few images and steps: only whether it runs")
    options = parser.parse_args(arguments)
    if options.data is None and not options.quick:
        parser.error("pass --data DIR, or --quick")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in [16] if options.quick else options.sizes:
        print(f"{options.network} at {size} x {size}")
        small = size <= 64
        if options.quick:
            number, steps = 2, 4
            images, labels = random_images(number, size)
            model: nn.Module = resnet18(size, width=8)
        else:
            number, steps = options.images or (16 if small else 8), options.steps
            train = options.train or (1500 if small else 320)
            model, images, labels = trained(options, size, number, train)
        job = Job(model, images, labels, saliency(model, images, labels), steps)
        if options.rounds:
            report_time(job, 1 if options.quick else options.rounds)
            report_agreement(job.first(options.compared))
            report_launches(job)
        if small:
            report_adaptive(job.first(options.compared), 8 if options.quick else options.reference)


if __name__ == "__main__":
    main()
