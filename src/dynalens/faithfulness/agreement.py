"""Two maps of one image: do they agree where they should, and differ where they should?"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Explain = Callable[[Tensor, Tensor], Tensor]


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's rank correlation of two maps of each image; ties share their mean rank.

    Args:
        maps: Shape ``(N, ...)``.
        others: Shape of ``maps``.

    Returns:
        Shape ``(N,)``, float32, in [-1, 1]; NaN where a map is constant or holds NaN.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> rank_correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 4.0, 9.0]]))
        tensor([1.])
    """
    if maps.shape != others.shape:
        raise ValueError(
            f"Expected `others` of the shape of `maps`, {tuple(maps.shape)}, got {tuple(others.shape)}. "
            "Compare maps of the same images and method."
        )
    a, b = _centred_ranks(maps), _centred_ranks(others)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(dim=1) / torch.where(norms > 0, norms, torch.nan)).clamp(-1, 1)


def attribution_drift(maps: Tensor, previous: Tensor) -> Tensor:
    """Return the rank correlation with an earlier epoch's maps of the same images: 1 has not drifted, 0 has wholly.

    Arguments, values and errors are those of :func:`rank_correlation`.
    """
    return rank_correlation(maps, previous)


def class_sensitivity(explain: Explain, images: Tensor, targets: Tensor, other_targets: Tensor) -> Tensor:
    """Return the rank correlation of the target's map with that of another class; lower is better.

    A map that is the same whatever the class shows where something is, not what speaks for the class.

    Source: Li et al., "Quantitative Evaluations on Saliency Methods", 2020; the random-logit test of Sixt et al.,
    "When Explanations Lie", ICML 2020, uses a similarity of pictures instead.

    Args:
        explain: Callable(images, targets) -> maps (N, ...).
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)``, int64.
        other_targets: Shape ``(N,)``, int64; the least or the second most probable class, say.

    Returns:
        As :func:`rank_correlation`.

    Raises:
        ValueError: If a target is compared with itself.
    """
    if bool((targets == other_targets).any()):
        raise ValueError(
            "Expected `other_targets` to differ from `targets` for each image, got an equal one. "
            "Name another class for each."
        )
    return rank_correlation(explain(images, targets), explain(images, other_targets))


def runner_up(logits: Tensor, targets: Tensor) -> Tensor:
    """Return for each row the most probable class that is not its target, int64 (N,).

    Example:
        >>> runner_up(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1]))
        tensor([2, 0])
    """
    return logits.float().scatter(1, targets.unsqueeze(1), -torch.inf).argmax(dim=1)


def randomisation_check(
    model: nn.Module,
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    seed: int = 0,
) -> Tensor:
    """Return the rank correlation of the map with that of the same network with random weights; lower is better.

    A map that survives cannot be about what was learned: an edge detector, say.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.

    Args:
        model: Copied; not modified. In training, the map at epoch 0 serves as well and costs nothing.
        explain: Callable(model, images, targets) -> maps (N, ...).
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)``, int64.
        seed: Seed of the random weights; torch's own generators are not moved.

    Returns:
        As :func:`rank_correlation`.

    Example:
        A map of the image alone survives.

        >>> images, targets = torch.tensor([[[[1.0, 3.0, 2.0]]]]), torch.tensor([0])
        >>> randomisation_check(nn.Linear(3, 2), lambda model, images, targets: images[:, 0], images, targets)
        tensor([1.])
    """
    original = explain(model, images, targets)
    return rank_correlation(original, explain(randomised(model, seed), images, targets))


def cascading_randomisation(
    model: nn.Module,
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return :func:`randomisation_check` after each layer from the last to the first has been randomised as well.

    Arguments are those of :func:`randomisation_check`.

    Returns:
        For each layer with weights, the last of ``named_modules`` first: shape ``(N,)``, float32.
    """
    original, other = explain(model, images, targets), copy.deepcopy(model)
    layers = [(name, module) for name, module in other.named_modules() if any(True for _ in _own(module))]
    correlations = {}
    for number, (name, layer) in enumerate(reversed(layers)):
        _randomise(layer, seed + number)
        correlations[name] = rank_correlation(original, explain(other, images, targets))
    return correlations


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy with the weights as they were before any training: each layer's own initialisation.

    What no layer initialises (an embedding of positions, say) is drawn from a normal distribution with standard
    deviation 0.02, as transformers begin.
    """
    other = copy.deepcopy(model)
    for number, module in enumerate(other.modules()):
        _randomise(module, seed + number)
    return other


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _randomise(module: nn.Module, seed: int) -> None:
    parameters = _own(module)
    devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in parameters:
            parameter.normal_(0, 0.02)


def _centred_ranks(maps: Tensor) -> Tensor:
    values = maps.detach().flatten(1).float().contiguous()
    ordered = values.sort(dim=1).values
    smaller = torch.searchsorted(ordered, values)
    not_larger = torch.searchsorted(ordered, values, right=True)
    # Twice the mean rank, scaled to keep float32 exact enough for sums over a large picture.
    ranks = (smaller + not_larger).float() / (2 * values.shape[1])
    ranks = torch.where(values.isnan().any(dim=1, keepdim=True), torch.nan, ranks)  # NaN has no rank
    return ranks - ranks.mean(dim=1, keepdim=True)
