"""Testing with concept activation vectors: whether a concept in a layer speaks for a class more than by chance."""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive, installed
from dynalens.attribution.passes import connected_run
from dynalens.concepts.sets import ConceptSet, concept_images
from dynalens.dynamics import Array
from dynalens.observation import (
    LogitsModule,
    device_of,
    floating_dtype,
    forward_of,
    module_named,
    out_of_place,
    seeded,
    undisturbed,
)
from dynalens.text import escaped

_AT_ONCE = 32  # number of images in one pass
_HELD_OUT = 3  # every third example is left out of the fit, as by Captum's own classifier
Forward = Callable[[Tensor], Any]


def tcav(
    model: nn.Module,
    images: Tensor,
    target: int,
    concepts: Mapping[str, ConceptSet],
    random: ConceptSet,
    *,
    layer: str,
    runs: int = 10,
    transform: Callable[[Any], Tensor] | None = None,
    forward: Forward | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Return how often each concept speaks for a class, and whether that could be chance (TCAV).

    A logistic regression separates the layer's output for examples of the concept from its output for random images.
    Its weights are the concept's vector :math:`v`. The score is the fraction of the class's images at which the logit
    :math:`z_k` of the class grows along this vector: :math:`v \cdot \nabla_h z_k > 0`, where :math:`h` is the output of
    the layer. This is repeated with ``runs`` sets of random images. In the control, one random set takes the place of
    the concept. Welch's t-test, two-sided, compares the scores of the concept with those of the control.

    Captum's ``TCAV`` computes the scores. Unlike Captum's default, the gradient is not multiplied by the activation.
    The model is left as it was, and so are random numbers.

    Source: Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation
    Vectors", ICML 2018, section 3. https://arxiv.org/abs/1711.11279

    Args:
        model: The model.
        images: Shape ``(N, C, *spatial)``: images of the class, as the model takes them.
        target: The class k.
        concepts: For the name of each concept at least two examples: a tensor ``(M, C, *spatial)`` or a folder of
            pictures.
        random: Images without the concepts. The random sets are drawn from them, so there must be at least as many as
            the largest concept has examples.
        layer: Dotted name of the layer.
        runs: Number of random sets, at least two.
        transform: Callable that makes a tensor of a PIL image. Needed for folders.
        forward: Callable(images) that returns logits. Default: ``model``.
        seed: Seed of the random sets.

    Returns:
        One row for each concept, with the index ``concept``: ``score`` in [0, 1], the mean over the runs; ``random``,
        that of the control; ``p_value`` of the test, not corrected for several concepts; and ``accuracy``, the fraction
        of held-out examples that the regression classifies correctly, as a mean over the runs. If it is near 0.5, the
        layer does not have the concept.

    Raises:
        ValueError: If Captum or scikit-learn is not installed, a set does not hold images, or there are too few random
            images.
        RuntimeError: If the forward pass does not run the layer.

    Example:
        The first feature speaks for class 0, and the examples of the concept have more of it than the random images.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> noise = torch.randn(40, 1, 1, 2, generator=torch.Generator().manual_seed(0))
        >>> right = noise[:9] + torch.tensor([9.0, 0.0])
        >>> table = tcav(model, noise[:4], 0, {"right": right}, noise, layer="0", runs=4)
        >>> table[["score", "accuracy"]].to_numpy().tolist()
        [[1.0, 1.0]]
    """
    check_positive(runs=runs)
    sets = {name: concept_images(name, examples, transform) for name, examples in concepts.items()}
    pool = concept_images("random", random, transform)
    _check(sets, pool, runs, images)
    size = max(len(examples) for examples in sets.values())
    generator = torch.Generator().manual_seed(seed)
    randoms = [pool[torch.randperm(len(pool), generator=generator)[:size]] for _ in range(runs + 1)]
    run = forward_of(model, forward)
    with undisturbed(model), seeded(), out_of_place(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"captum\.")
        run = connected_run(run, images[:1].to(device_of(model, images), floating_dtype(model, images)), target)
        with tempfile.TemporaryDirectory() as folder:
            scores = _scores(LogitsModule(model, run), layer, images, target, sets, randoms, folder)
    control = scores[None]
    rows = {
        escaped(name): {
            "score": float(np.mean([score for score, _ in run_scores])),
            "random": float(np.mean([score for score, _ in control])),
            "p_value": p_value([score for score, _ in run_scores], [score for score, _ in control]),
            "accuracy": float(np.mean([accuracy for _, accuracy in run_scores])),
        }
        for name, run_scores in scores.items()
        if name is not None
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("concept")


def p_value(scores: Sequence[float], control: Sequence[float]) -> float:
    """Return the p-value of Welch's two-sided t-test for equal means.

    If both sides are constant, the test is not defined. Then it is 1 if the constants are equal, and else 0.

    Example:
        >>> p_value([1.0, 1.0], [1.0, 1.0]), p_value([1.0, 1.0], [0.5, 0.5]), round(p_value([1.0, 0.0], [0.0, 1.0]), 6)
        (1.0, 0.0, 1.0)
    """
    from scipy.stats import ttest_ind

    if np.ptp(scores) == 0 and np.ptp(control) == 0:
        return float(scores[0] == control[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # if one side is constant
        return float(ttest_ind(scores, control, equal_var=False).pvalue)


def _check(sets: Mapping[str, Tensor], pool: Tensor, runs: int, images: Tensor) -> None:
    if not sets or runs < 2 or not len(images):
        raise ValueError(
            f"Expected at least one concept, one image and two runs, got {len(sets)}, {len(images)} and {runs}. Pass "
            "`concepts`, `images` of the class, and `runs` of at least 2: the test compares the scores of several runs."
        )
    size = max(len(examples) for examples in sets.values())
    if len(pool) < size:
        raise ValueError(
            f"Expected `random` to have at least {size} images, as many as the largest concept, got {len(pool)}. Pass "
            "more of them, for instance the validation images of all classes."
        )


def _scores(
    model: LogitsModule,
    layer: str,
    images: Tensor,
    target: int,
    sets: Mapping[str, Tensor],
    randoms: Sequence[Tensor],
    folder: str,
) -> dict[str | None, list[tuple[float, float]]]:
    """Return the score and the accuracy of each run by the name of the concept. None is the name of the control."""
    make_tcav, concept_class = _captum()
    module = module_named(model.inner, layer, argument="layer")
    name = next(name for name, child in model.named_modules() if child is module)
    device, dtype = device_of(model, images), floating_dtype(model, images)
    concepts = []
    for number, examples in enumerate([*sets.values(), *randoms]):
        parts = [part.to(device, dtype) for part in torch.split(examples, _AT_ONCE)]
        # Captum names files after the concepts, so a number is safer than a user's name.
        concepts.append(concept_class(id=number, name=str(number), data_iter=parts))
    first_random, *random_concepts = concepts[len(sets) :]
    named_concepts = zip([*sets, None], [*concepts[: len(sets)], first_random], strict=True)
    pairs = [(key, [concept, control]) for key, concept in named_concepts for control in random_concepts]
    tcav = make_tcav(model, name, folder)
    sums = np.zeros(len(pairs))
    for part in torch.split(images.to(device, dtype), _AT_ONCE):
        result = tcav.interpret(part, [pair for _, pair in pairs], target=target)
        sums += [len(part) * float(result[_key(pair)][name]["sign_count"][0]) for _, pair in pairs]
    scores: dict[str | None, list[tuple[float, float]]] = {key: [] for key in (*sets, None)}
    for (key, pair), total in zip(pairs, sums, strict=True):
        accuracy = float(tcav.cavs[_key(pair)][name].stats["accs"])
        scores[key].append((float(total) / len(images), accuracy))
    return scores


def _key(pair: Sequence[Any]) -> str:
    """Return the key under which Captum stores the results of two concepts."""
    return "-".join(str(concept.id) for concept in pair)


def _captum() -> tuple[Callable[[nn.Module, str, str], Any], Any]:
    """Return a callable(model, layer, folder) that makes Captum's ``TCAV``, and Captum's class of concepts."""
    with installed("Captum and scikit-learn", "TCAV", "captum scikit-learn"):
        from captum.attr import LayerGradientXActivation
        from captum.concept import TCAV, Concept

        classifier = _classifier()

    def concept_classifier(model: nn.Module, layer: str, folder: str) -> Any:
        gradient = LayerGradientXActivation(model, None, multiply_by_inputs=False)
        return TCAV(model, [layer], classifier=classifier(), layer_attr_method=gradient, save_path=folder)

    return concept_classifier, Concept


def _classifier() -> Any:
    """Return the class of the classifier that separates a concept from random examples, in the form for Captum."""
    import sklearn.linear_model as linear
    from captum.concept._utils.classifier import Classifier

    class Logistic(Classifier):  # type: ignore[misc]  # Captum's classes have no types here
        """A logistic regression, fitted to two thirds of the examples."""

        def __init__(self) -> None:
            self.model = linear.LogisticRegression(max_iter=1000)

        def train_and_eval(self, dataloader: Any, **_options: Any) -> dict[str, float]:
            batches = [(x.flatten(1).float().cpu().numpy(), y.cpu().numpy()) for x, y in dataloader]
            x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
            test = _held_out(y)
            self.model.fit(x[~test], y[~test])
            return {"accs": float(self.model.score(x[test], y[test]))}

        def weights(self) -> Tensor:
            direction = torch.from_numpy(self.model.coef_[0]).float()
            return torch.stack([-direction, direction])

        def classes(self) -> list[int]:
            return [int(label) for label in self.model.classes_]

    return Logistic


def _held_out(labels: Array) -> Array:
    """Return which examples are left out of the fit: every third one of each set, at least one, and never all.

    Example:
        >>> _held_out(np.array([0, 0, 0, 0, 1, 1])).tolist()
        [False, False, True, False, False, True]
    """
    test_rows = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test_rows[rows[_HELD_OUT - 1 :: _HELD_OUT] if len(rows) >= _HELD_OUT else rows[-1:]] = True
    return test_rows
