"""Draw models that stand for a network: linear models of a class, and a decision tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from dynalens.pictures import Relative, class_name, map_cell, relatives_sheet, shown_inputs
from dynalens.pictures.card import GAP, LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import FAINT, INK, LINES, write
from dynalens.surrogates import TreeSurrogate
from dynalens.text import percent

_CELL = 144  # side of a picture in pixels, more than twice its side on the sheet
_BOX, _PITCH = 118, 5 * LINE  # width of a node; height of a level: two lines of text and a labelled branch


def normlime_sheet(
    importance: Mapping[int, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Return a picture with a row for each class: the mean of its samples, and where NormLIME finds it important.

    Args:
        importance: For each class shape ``spatial``, the result of :func:`dynalens.normlime`.
        images: The samples, shape ``(N, C, *spatial)``, or ``(N, F)`` for rows of a table.
        labels: Shape ``(N,)``, the classes of the samples.
        class_names: Name of each class. Default: its number.

    Raises:
        ValueError: If a class has no sample, or its importance has another size than the samples.

    Example:
        >>> import torch
        >>> normlime_sheet({3: torch.rand(8, 8)}, torch.rand(5, 1, 8, 8), torch.full((5,), 3)).size
        (700, 256)
    """
    spatial = tuple(images.shape[2:]) or tuple(images.shape[1:])
    unfit = [
        label for label, values in importance.items() if tuple(values.shape) != spatial or not (labels == label).any()
    ]
    if unfit or not importance:
        raise ValueError(
            f"Expected `importance` to hold classes that have samples, each with a map of their size {spatial}, "
            f"got {unfit or 'no classes'}. Pass the images and labels whose maps went to `normlime`."
        )
    rows = []
    for label, values in sorted(importance.items()):
        mean = shown_inputs(images[labels == label].float().mean(dim=0, keepdim=True))[0]
        map_picture = map_cell(mean, values.detach().cpu().numpy(), (_CELL, _CELL), is_signed=False)
        groups = {"mean": [Relative(mean, "")], "important": [Relative(map_picture, "")]}
        rows.append((f"class {class_name(label, class_names)}", groups))
    return relatives_sheet(rows, "what is important for each class (NormLIME)")


@dataclass(frozen=True)
class _Node:
    lines: tuple[str, str]
    x: float  # centre
    level: int
    label: int | None  # of a leaf
    children: tuple["_Node", ...] = ()


def tree_picture(
    surrogate: TreeSurrogate,
    *,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Return a picture of the tree. A leaf shows its class, its number of rows, and the share of them that is right.

    If the answer to a question is yes, follow the branch to the left. The rows are those that the tree was fitted to,
    and "right" means: as the network predicts. The first line shows the fidelity on held-out rows.

    Args:
        surrogate: The result of :func:`dynalens.tree_surrogate`.
        feature_names: F names. Default: numbers.
        class_names: K names. Default: numbers.

    Example:
        >>> import pytest, torch
        >>> _ = pytest.importorskip("sklearn")
        >>> from dynalens import tree_surrogate
        >>> network = torch.nn.Linear(1, 2)
        >>> _ = network.weight.data.copy_(torch.tensor([[-1.0], [1.0]])), network.bias.data.zero_()
        >>> tree_picture(tree_surrogate(network, torch.linspace(-1, 1, 40).unsqueeze(1))).size  # a question, two leaves
        (700, 336)
    """
    leaves: list[int] = []
    root = _node(surrogate.tree, 0, 0, leaves, feature_names, class_names)
    width = max(WIDTH, len(leaves) * (_BOX + GAP) + GAP)
    card = Card(2 * LINE + (surrogate.tree.get_depth() + 1) * _PITCH, width=width)
    agreement = f"agrees with the network on {percent(surrogate.fidelity, 0)} of the rows held out"
    title = f"{agreement}; always one class on {percent(surrogate.majority, 0)}"
    write(card.draw, (GAP, 2), title, TEXT, width=width - 2 * GAP)
    _draw(card, root)
    return card.image()


def _node(
    tree: Any,
    index: int,
    level: int,
    leaves: list[int],
    feature_names: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> _Node:
    """Return the node with all nodes below it. ``leaves`` holds the leaves to its left, and its own are added."""
    inner = tree.tree_
    yes_child, no_child = int(inner.children_left[index]), int(inner.children_right[index])
    rows = int(inner.n_node_samples[index])
    if yes_child == no_child:
        shares = inner.value[index][0] / inner.value[index][0].sum()
        label = int(tree.classes_[shares.argmax()])
        x = GAP + len(leaves) * (_BOX + GAP) + _BOX / 2
        leaves.append(index)
        correct = percent(shares.max(), 0)
        return _Node((class_name(label, class_names), f"{rows} rows, {correct} right"), x, level, label)
    children = tuple(
        _node(tree, child, level + 1, leaves, feature_names, class_names) for child in (yes_child, no_child)
    )
    column = int(inner.feature[index])
    name = f"feature {column}" if feature_names is None else str(feature_names[column])
    question = f"<= {inner.threshold[index]:.3g}?  {rows} rows"
    return _Node((name, question), (children[0].x + children[1].x) / 2, level, None, children)


def _draw(card: Card, node: _Node) -> None:
    top = 2 * LINE + node.level * _PITCH
    left, bottom = node.x - _BOX / 2, top + 2 * LINE + 6
    for child, answer in zip(node.children, ("yes", "no"), strict=False):
        end = 2 * LINE + child.level * _PITCH
        card.draw.line((node.x, bottom, child.x, end), fill=FAINT)
        middle = ((node.x + child.x) / 2, (bottom + end) / 2)
        write(card.draw, middle, answer, TEXT, fill=FAINT, anchor="mm", halo=2)
        _draw(card, child)
    colour = FAINT if node.label is None else LINES[node.label % len(LINES)]
    card.draw.rectangle((left, top, left + _BOX, bottom), outline=colour, width=1 if node.label is None else 2)
    for number, line in enumerate(node.lines):
        fill = FAINT if number else INK
        write(card.draw, (left + 5, top + 3 + number * LINE), line, TEXT, fill=fill, width=_BOX - 8)
