"""A decision tree that imitates a network for tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.arguments import check_positive, installed
from dynalens.faithfulness import class_logits

Forward = Callable[[Tensor], Tensor]
_HELD_OUT = 4
"""One of this many rows is held out, which is scikit-learn's default."""


@dataclass(frozen=True)
class TreeSurrogate:
    """A decision tree that imitates a network, as :func:`tree_surrogate` returns it.

    Attributes:
        tree: A ``sklearn.tree.DecisionTreeClassifier``.
        fidelity: Fraction of the held-out rows for which the tree predicts the same class as the network.
        majority: The same for the class that the network predicts most often. Without a tree you reach this fidelity.
        rules: The tree as text.

    Example:
        >>> TreeSurrogate(None, 0.9, 0.6, "x > 0").fidelity
        0.9
    """

    tree: Any
    fidelity: float
    majority: float
    rules: str


def tree_surrogate(
    model: nn.Module,
    inputs: Tensor,
    *,
    depth: int = 4,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> TreeSurrogate:
    r"""Return a decision tree that imitates a network: for rows of a table it predicts what the network predicts.

    The tree T is fitted to three of four rows. Its fidelity is
    :math:`\frac{1}{|H|} \sum_{i \in H} [T(x_i) = \hat y_i]`, where :math:`H` are the other rows, which are held out,
    :math:`x_i` is row i, :math:`\hat y_i` the class with the largest logit of the network for it, and a bracket is 1 if
    the condition holds and else 0. The lower the fidelity, the less the rules of the tree say about the network. It
    costs one forward pass of the inputs.

    Source: Molnar, "Interpretable Machine Learning", chapter "Global Surrogate", for the procedure; Craven and Shavlik,
    "Extracting Tree-Structured Representations of Trained Networks", NeurIPS 1995, for the fidelity. Differs from the
    sources: the first one measures the fidelity by :math:`R^2`, which needs numbers instead of classes. The second one
    also asks the network about rows that it draws itself. The tree is scikit-learn's ``DecisionTreeClassifier``.

    Args:
        model: Returns logits (N, K).
        inputs: Shape ``(N, F)``, floating, at least 8 rows. Not modified.
        depth: Largest depth of the tree. A depth of 4 gives up to 15 questions, about as many as a person reads.
        feature_names: F names for the rules.
        class_names: K names for the rules.
        seed: Seed by which rows are held out, and by which the tree chooses among equal questions.
        forward: Callable(inputs) that returns logits. Default: ``model``.

    Returns:
        The tree, its fidelity, and its rules.

    Raises:
        ValueError: If scikit-learn is not installed, the inputs are not a table, or logits are not finite.

    Example:
        >>> class Sign(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.stack([-x[:, 0], x[:, 0]], dim=1)
        >>> rows = torch.linspace(-1, 1, 40).unsqueeze(1)
        >>> surrogate = tree_surrogate(Sign(), rows, feature_names=["x"])
        >>> surrogate.fidelity, surrogate.rules.splitlines()[0]
        (1.0, '|--- x <= 0.00')
    """
    check_positive(depth=depth)
    min_rows = 2 * _HELD_OUT
    if inputs.ndim != 2 or not inputs.is_floating_point() or len(inputs) < min_rows:
        raise ValueError(
            f"Expected `inputs` to be at least {min_rows} rows of a table, floating (N, F), got {tuple(inputs.shape)}, "
            f"{inputs.dtype}. A tree asks about single columns, so pass a table. A tree of pixels would say nothing."
        )
    logits = class_logits(model, inputs, forward=forward)
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "Expected finite logits, got NaN or infinity. Check that the weights and the inputs are finite."
        )
    classes = logits.argmax(dim=1).cpu()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    test_rows, fit_rows = order[: len(order) // _HELD_OUT], order[len(order) // _HELD_OUT :]
    with installed("scikit-learn", "a surrogate", "scikit-learn"):
        from sklearn.tree import DecisionTreeClassifier, export_text
    table = inputs.detach().float().cpu().numpy()
    tree = DecisionTreeClassifier(max_depth=depth, random_state=seed)
    tree.fit(table[fit_rows], classes[fit_rows].numpy())
    most_common = int(classes[fit_rows].mode().values)
    columns = None if feature_names is None else list(feature_names)
    names = None if class_names is None else [str(class_names[label]) for label in tree.classes_]
    return TreeSurrogate(
        tree,
        fidelity=float(tree.score(table[test_rows], classes[test_rows].numpy())),
        majority=float((classes[test_rows] == most_common).float().mean()),
        rules=export_text(tree, feature_names=columns, class_names=names),
    )
