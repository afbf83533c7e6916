"""One job of deletion and insertion, done by this package, by its peers, and by nothing but the passes it needs."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynalens.faithfulness import Curve, CurveSettings, faithfulness_curves

Curves = dict[str, Tensor]


@dataclass
class Job:
    """What is explained: a network, images, targets, tie-free maps, and the number of steps."""

    model: nn.Module
    images: Tensor
    targets: Tensor
    maps: Tensor
    steps: int

    def first(self, number: int) -> "Job":
        """Return the job of the first images."""
        return replace(self, images=self.images[:number], targets=self.targets[:number], maps=self.maps[:number])

    def double(self) -> "Job":
        """Return the job in float64."""
        moved = copy.deepcopy(self.model).double(), self.images.double(), self.targets, self.maps.double()
        return Job(*moved, self.steps)

    @property
    def scored(self) -> int:
        """Images that the definition needs: both curves share their ends, and all images the zero baseline."""
        return len(self.images) * (2 * (self.steps - 1) + 1) + 1

    def bound(self, batch: int, *, low: bool, last: bool, scored: int | None = None) -> None:
        """Score that many images and do nothing else."""
        scored = self.scored if scored is None else scored
        images = self.images.repeat(-(-batch // len(self.images)), 1, 1, 1)[:batch].contiguous()
        if last:
            # Strides of a single channel have to be written out: `contiguous` takes both formats for the same there.
            _, c, h, w = images.shape
            images = torch.empty_strided(images.shape, (c * h * w, 1, w * c, c)).copy_(images)
        with torch.no_grad(), autocast(low):
            for start in range(0, scored, batch):
                self.model(images[: min(batch, scored - start)])

    def own(self, settings: CurveSettings) -> dict[str, Curve]:
        """Return this package's curves."""
        return faithfulness_curves(self.model, self.images, self.targets, self.maps, settings)

    def rise(self) -> Curves:
        """Return the curves of RISE's `CausalMetric.evaluate`: all images of a step in one batch, edited in numpy."""
        n, c = self.images.shape[:2]
        order = np.flip(np.argsort(self.maps.flatten(1).numpy(), axis=1), axis=1)
        per_step = -(-self.maps[0].numel() // self.steps)
        found = {}
        for name in ("deletion", "insertion"):
            blank = torch.zeros_like(self.images)
            start, finish = (self.images, blank) if name == "deletion" else (blank, self.images)
            pixels, final = start.flatten(2).numpy().copy(), finish.flatten(2).numpy()
            scores = []
            for step in range(self.steps + 1):
                with torch.no_grad():
                    p = self.model(torch.from_numpy(pixels).view(self.images.shape)).softmax(dim=1)
                scores.append(p.gather(1, self.targets.unsqueeze(1)).squeeze(1))
                chosen = order[:, None, per_step * step : per_step * (step + 1)].repeat(c, axis=1)
                np.put_along_axis(pixels, chosen, np.take_along_axis(final, chosen, axis=2), axis=2)
            found[name] = torch.stack(scores, dim=1).view(n, -1)
        return found

    def torchcam(self) -> dict[str, float]:
        """Return torchcam's mean areas."""
        from torchcam.metrics import DeletionInsertionMetric

        metric = DeletionInsertionMetric(
            _GivenMaps(self.model, self.maps), functools.partial(torch.softmax, dim=-1), steps=self.steps
        )
        metric.update(self.images, self.targets.tolist())
        areas: dict[str, float] = metric.summary()
        return areas

    def quantus(self) -> int:
        """Run Quantus' deletion and return how many images it scored; its features are single values of a channel."""
        import quantus

        flipping: Any = vars(quantus)["PixelFlipping"]  # it exports by a star
        features = self.images[0].numel()
        pixels = self.maps[0].numel()
        per_step = next(k for k in range(features // self.steps, features + 1) if pixels % k == 0 or k >= pixels)
        metric = flipping(
            features_in_step=per_step, perturb_baseline="black", disable_warnings=True, display_progressbar=False,
            normalise=False, abs=False,
        )  # fmt: skip
        maps = self.maps.unsqueeze(1).expand_as(self.images).numpy()
        scores = metric(
            model=self.model, x_batch=self.images.numpy(), y_batch=self.targets.numpy(), a_batch=maps, device="cpu"
        )
        return len(scores) * len(scores[0])


class _GivenMaps:
    """What torchcam asks of an extractor."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self._maps = model, maps

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        return [self._maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return contextlib.nullcontext()


@contextlib.contextmanager
def autocast(low: bool) -> Iterator[None]:
    """Run in bfloat16 where asked for."""
    with torch.autocast("cpu", dtype=torch.bfloat16) if low else contextlib.nullcontext():
        yield
