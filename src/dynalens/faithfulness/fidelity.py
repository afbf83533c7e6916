"""Local fidelity: how well the sum of a map over the visible part of an image predicts the logit."""

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive
from dynalens.faithfulness.perturbation import Baseline, replacement
from dynalens.faithfulness.scoring import Forward, scoring

_PARTS = 7
"""Number of parts of each side. The 49 patches are about as many as LIME's superpixels."""
_SAMPLES = 50
"""Number of perturbed copies of an image: Captum's default for LIME."""


def patches(spatial: tuple[int, ...] | torch.Size, parts: int = _PARTS) -> Tensor:
    """Return the number of the patch that each position belongs to, int64, shape ``spatial``.

    Each side is cut into ``parts`` of as equal length as possible, or into single positions if it is shorter.

    Example:
        >>> patches((2, 5), parts=2)
        tensor([[0, 0, 0, 1, 1],
                [2, 2, 2, 3, 3]])
    """
    number = torch.zeros((1,) * len(spatial), dtype=torch.int64)
    for axis, side in enumerate(spatial):
        parts_here = min(parts, side)
        place = torch.arange(side) * parts_here // side
        shape = [1] * len(spatial)
        shape[axis] = side
        number = number * parts_here + place.view(shape)
    return number


def local_fidelity(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    baseline: Baseline = "blur",
    samples: int = _SAMPLES,
    seed: int = 0,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return how well sums of the map predict the target's logit when patches are replaced, as :math:`R^2`.

    The image is divided into 7 x 7 patches. In copies of it, a random half of the patches is replaced by the baseline.
    Let s be the sum of the map over the patches that are kept, and z the logit. The value is
    :math:`\max(0, \mathrm{corr}(s, z))^2`: the share of the variance of z that the best line a + b s with
    :math:`b \ge 0` explains. At 1, the model behaves around the image like the sum that the map describes.

    Source: the local fidelity of Ribeiro et al., "Why Should I Trust You?", KDD 2016, for the linear model whose
    weights are the map up to a factor.

    Args:
        model: This and all arguments that are not listed here: see :func:`faithfulness_curves`.
        maps: Shape ``(N, *spatial)``.
        baseline: What replaced patches show, see :func:`baseline_images`.
        samples: Number of perturbed copies of each image. Each costs one forward pass.
        seed: Seed by which patches are replaced.

    Returns:
        Shape ``(N,)``, float32, in [0, 1]. It is NaN if the logit does not change at all.

    Raises:
        ValueError: If the shapes do not agree, or ``samples`` is not positive.

    Example:
        The logit is the sum of the pixels. The image itself is then a perfect map, and its negative a useless one.

        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[1.0, 5.0, 2.0]]]]), torch.tensor([0])
        >>> local_fidelity(score, image, target, image[:, 0], baseline="zero")
        tensor([1.])
        >>> local_fidelity(score, image, target, -image[:, 0], baseline="zero")
        tensor([0.])
    """
    perturbation = PerturbedLogits.from_model(
        model, images, targets, baseline=baseline, samples=samples, seed=seed, forward=forward, chunk_size=chunk_size
    )
    return perturbation.fidelity(maps)


class PerturbedLogits:
    """The logits of perturbed copies of some images. The fidelity of any number of maps is computed from them.

    Args:
        presence: Shape ``(S, P)``: 1 if patch p is visible in copy s, 0 if it is replaced. It is the same for all
            images.
        logits: Shape ``(N, S)``: the target's logit for each copy.
        patch: Shape ``spatial``: the number of the patch of each position.
    """

    def __init__(self, presence: Tensor, logits: Tensor, patch: Tensor) -> None:
        self._presence, self._logits, self._patch = presence, logits, patch

    @classmethod
    def from_model(
        cls,
        model: nn.Module | Forward,
        images: Tensor,
        targets: Tensor,
        *,
        baseline: Baseline,
        samples: int = _SAMPLES,
        seed: int = 0,
        forward: Forward | None = None,
        chunk_size: int | None = None,
    ) -> "PerturbedLogits":
        """Run the model; the arguments are those of :func:`local_fidelity`."""
        check_positive(samples=samples)
        patch = patches(images.shape[2:])
        generator = torch.Generator().manual_seed(seed)
        presence = torch.randint(0, 2, (samples, int(patch.max()) + 1), generator=generator)
        is_visible = presence[:, patch].to(images.device).bool()
        with scoring(model, images, forward=forward, chunk_size=chunk_size) as (scorer, x):
            replacements = replacement(x, baseline).expand_as(x)
            logits = [scorer.target_logits(torch.where(mask, x, replacements), targets) for mask in is_visible]
        return cls(presence.to(images.device).double(), torch.stack(logits, dim=1).double(), patch.to(images.device))

    def fidelity(self, maps: Tensor) -> Tensor:
        """Return :func:`local_fidelity` of maps ``(N, *spatial)``."""
        if maps.shape != (len(self._logits), *self._patch.shape):
            raise ValueError(
                f"Expected `maps` of shape {(len(self._logits), *self._patch.shape)}, got {tuple(maps.shape)}. Pass "
                "one relevance for each pixel of each image: see `pixel_relevance`."
            )
        presence = self._presence
        flat = maps.to(presence).flatten(1)
        sums = flat.new_zeros(len(flat), presence.shape[1]).index_add_(1, self._patch.flatten(), flat) @ presence.T
        s, z = (values - values.mean(dim=1, keepdim=True) for values in (sums, self._logits))
        scale = s.norm(dim=1) * z.norm(dim=1)
        correlation = torch.where(scale > 0, (s * z).sum(dim=1) / scale, 0.0)
        fidelity = correlation.clamp(0, 1).square()
        changes = z.abs().amax(dim=1) > 0
        return torch.where(changes, fidelity, torch.nan).float()
