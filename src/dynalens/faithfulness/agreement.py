"""Whether two maps of one image agree where they should, and differ where they should."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Explain = Callable[[Tensor, Tensor], Tensor]


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    r"""Return Spearman's rank correlation of two maps of each image.

    :math:`\sum_i (r_i - \bar r)(s_i - \bar s) \big/ \sqrt{\sum_i (r_i - \bar r)^2 \sum_i (s_i - \bar s)^2}`, where
    :math:`r_i` is the rank of pixel i in the first map, :math:`s_i` its rank in the second one, and :math:`\bar r` and
    :math:`\bar s` are the mean ranks. Pixels of equal relevance share the mean of their ranks.

    Source: Spearman, "The Proof and Measurement of Association between Two Things", American Journal of Psychology 15,
    1904. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3, compare maps with it.

    Args:
        maps: Shape ``(N, ...)``.
        others: The other maps, of the same shape.

    Returns:
        Shape ``(N,)``, float32, in [-1, 1]. It is NaN if one of the maps is constant or holds NaN.

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
    """Return the rank correlation of maps with those of the same images from an earlier epoch.

    1 means that the map has not changed its order, 0 that the new order has nothing to do with the old one. Arguments,
    values and errors are those of :func:`rank_correlation`.

    Example:
        Two pixels exchange the ranks 2 and 3: 1 - 6 (0 + 1 + 1) / (3 (9 - 1)).

        >>> attribution_drift(torch.tensor([[0.1, 0.9, 0.4]]), previous=torch.tensor([[0.0, 0.2, 0.3]]))
        tensor([0.5000])
    """
    return rank_correlation(maps, previous)


def class_sensitivity(explain: Explain, images: Tensor, targets: Tensor, other_targets: Tensor) -> Tensor:
    """Return the rank correlation of the target's map with the map of another class. Lower is better.

    If a map is the same for all classes, it shows where something is in the image, but not what speaks for the class.

    Source: Li et al., "Quantitative Evaluations on Saliency Methods", 2020. The random-logit test of Sixt et al., "When
    Explanations Lie", ICML 2020, compares the maps by a similarity of pictures instead.

    Args:
        explain: Callable(images, targets) that returns maps (N, ...).
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)``, int64.
        other_targets: Shape ``(N,)``, int64, for instance the least probable class or the second most probable one.

    Returns:
        As :func:`rank_correlation`.

    Raises:
        ValueError: If an other target is equal to the target.

    Example:
        The map of class 1 has the reverse order of the map of class 0.

        >>> maps, label = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), torch.tensor([0])
        >>> class_sensitivity(lambda images, targets: maps[targets], torch.zeros(1, 1, 3), label, label + 1)
        tensor([-1.])
    """
    if bool((targets == other_targets).any()):
        raise ValueError(
            "Expected `other_targets` to name another class than `targets` for each image, got the same class for "
            f"{int((targets == other_targets).sum())} of {len(targets)} images. Pass for instance the second most "
            "probable class."
        )
    return rank_correlation(explain(images, targets), explain(images, other_targets))


def runner_up(logits: Tensor, targets: Tensor) -> Tensor:
    """Return for each row the most probable class other than its target, int64, shape ``(N,)``.

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
    """Return the rank correlation of the map with that of the same network with random weights. Lower is better.

    If a map stays the same, it shows nothing that the network has learned. An edge detector, for instance, does not
    depend on weights.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.

    Args:
        model: The model. It is copied and not modified. During training you can instead compare with the map of epoch
            0, which costs nothing.
        explain: Callable(model, images, targets) that returns maps (N, ...).
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)``, int64.
        seed: Seed of the random weights. The random numbers of torch's own generators stay as they were.

    Returns:
        As :func:`rank_correlation`.

    Example:
        This map depends on the image alone, so random weights do not change it.

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
    """Return the :func:`randomisation_check` after each layer, randomised one after another from the last to the first.

    The layers that were randomised before stay random. Arguments and source are those of :func:`randomisation_check`.

    Returns:
        For the name of each layer with weights, in the order of randomisation, the correlations, shape ``(N,)``,
        float32.

    Example:
        The map is the image times the weights of the layer norm, (9, 2, 3). The last layer does not change it. A new
        layer norm has weights of 1, with which the map is (1, 2, 3): 1 - 6 (4 + 1 + 1) / (3 (9 - 1)).

        >>> model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
        >>> _ = model[0].weight.data.copy_(torch.tensor([9.0, 1.0, 1.0]))
        >>> image, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
        >>> cascading_randomisation(model, lambda model, images, targets: images * model[0].weight, image, target)
        {'1': tensor([1.]), '0': tensor([-0.5000])}
    """
    original, random_model = explain(model, images, targets), copy.deepcopy(model)
    layers = [
        (name, module) for name, module in random_model.named_modules() if any(True for _ in _own_parameters(module))
    ]
    correlations = {}
    for number, (name, layer) in enumerate(reversed(layers)):
        _randomise(layer, seed + number)
        correlations[name] = rank_correlation(original, explain(random_model, images, targets))
    return correlations


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of the model with weights as before training, drawn by the initialisation of each layer.

    Parameters that no layer initialises, for instance embeddings of positions, are drawn from a normal distribution
    with standard deviation 0.02, as is usual for transformers.

    Example:
        >>> norm = torch.nn.LayerNorm(2)
        >>> _ = torch.nn.init.constant_(norm.weight, 5.0)
        >>> randomised(norm).weight.tolist(), norm.weight.tolist()  # a layer norm begins with ones
        ([1.0, 1.0], [5.0, 5.0])
    """
    random_model = copy.deepcopy(model)
    for number, module in enumerate(random_model.modules()):
        _randomise(module, seed + number)
    return random_model


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _randomise(module: nn.Module, seed: int) -> None:
    """Draw the parameters of a module anew, without those of its submodules."""
    parameters = _own_parameters(module)
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
    """Return the ranks (N, P) of each map's pixels up to a common factor, minus their mean."""
    values = maps.detach().flatten(1).float().contiguous()
    sorted_values = values.sort(dim=1).values
    smaller = torch.searchsorted(sorted_values, values)
    not_larger = torch.searchsorted(sorted_values, values, right=True)
    # The mean rank over the number of pixels: in [0, 1], sums over a large picture stay exact enough in float32.
    ranks = (smaller + not_larger).float() / (2 * values.shape[1])
    ranks = torch.where(values.isnan().any(dim=1, keepdim=True), torch.nan, ranks)  # NaN has no rank
    return ranks - ranks.mean(dim=1, keepdim=True)
