"""Which targets of a binary loss are labels of the tokens of sequences, and not pixels of masks."""

from collections.abc import Iterable

from torch import Tensor

from dynalens.capture.entries import Path
from dynalens.observation import is_tokens


def label_axis(targets: Tensor, entries: Iterable[tuple[Path, Tensor]]) -> int | None:
    """Return on which axis the labels of tokens stand: 2 of (N, T, K), 1 of (N, K, T); None where these are no tokens.

    They are where the batch has N x T tokens, and no images beside them: nothing else with three axes or more.

    Args:
        targets: Of a binary loss.
        entries: Of the batch, with their paths.

    Example:
        >>> import torch
        >>> ids, labels = torch.ones(2, 7, dtype=torch.int64), torch.zeros(2, 7, 3)
        >>> label_axis(labels, [(("input_ids",), ids), (("labels",), labels)])
        2
        >>> label_axis(labels, [((0,), torch.zeros(2, 1, 7, 3)), ((1,), labels)]) is None
        True
    """
    if targets.ndim != 3:
        return None
    leaves = [leaf for _, leaf in entries]
    if any(leaf.ndim > 2 and leaf.numel() != targets.numel() for leaf in leaves):
        return None
    lengths = {leaf.shape[1] for leaf in leaves if is_tokens(leaf) and len(leaf) == len(targets)}
    return next((axis for axis in (2, 1) if targets.shape[3 - axis] in lengths), None)
