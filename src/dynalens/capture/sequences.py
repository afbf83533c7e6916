"""Sequences of tokens: where labels of tokens stand, and which token pads the sequences."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dynalens.capture.entries import Path, entry_at
from dynalens.notices import warn
from dynalens.observation import is_tokens

MASK = "attention_mask"
"""Name of the entry, and of the argument, that says which tokens count."""


def label_axis(targets: Tensor, entries: Iterable[tuple[Path, Tensor]]) -> int | None:
    """Return the axis of the labels of tokens: 2 of (N, T, K), 1 of (N, K, T); None if these are not tokens.

    They are tokens if the batch has N x T tokens and no images beside them, that is, nothing else with three axes or
    more.

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


def padding_of(batch: Any, path: Path | None) -> int | None:
    """Return the token that pads sequences: it stands only where the entry ``attention_mask`` is 0.

    It is None if the batch has no such entry, if no sequence is padded, or if other tokens are masked, too. Waits for
    the device.

    Args:
        batch: With tokens (N, T) and, beside them, their mask.
        path: Where the tokens stand in it.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 7], [6, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
        >>> padding_of(batch, ("input_ids",))
        0
    """
    tokens = entry_at(batch, path)
    mask = None if not path or tokens is None else entry_at(batch, (*path[:-1], MASK))
    if tokens is None or mask is None or mask.shape != tokens.shape or not is_tokens(tokens):
        return None
    return int(tokens[mask == 0][0]) if _is_mask_of_padding(mask, tokens) else None


def attended_tokens(batch: Any, path: Path | None, tokens: Tensor) -> Tensor:
    """Return tokens (N, T) with -1 for those that the entry ``attention_mask`` leaves out, as they are not shown.

    Does not wait for the device.

    Example:
        >>> batch = {"input_ids": torch.tensor([[5, 7], [6, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
        >>> attended_tokens(batch, ("input_ids",), batch["input_ids"]).tolist()
        [[5, 7], [6, -1]]
    """
    mask = entry_at(batch, (*(path or ())[:-1], MASK))
    if mask is None or (mask.shape, mask.device) != (tokens.shape, tokens.device):
        return tokens
    return tokens.long().masked_fill(mask == 0, -1)


def follows_from_tokens(entry: Tensor, tokens: Tensor) -> bool:
    """Return whether an entry tells a network nothing that tokens (N, T) do not: it need not be given to it.

    It is the mask of their padding, the positions 0 to T - 1, or the same number everywhere, as are the types of tokens
    that are one text. Waits for the device.

    Example:
        >>> tokens = torch.tensor([[5, 7, 0], [6, 7, 8]])
        >>> follows_from_tokens(torch.tensor([[1, 1, 0], [1, 1, 1]]), tokens)
        True
        >>> follows_from_tokens(torch.tensor([[0, 1, 0], [0, 1, 1]]), tokens)  # where the second text is
        False
    """
    if entry.shape != tokens.shape or not is_tokens(tokens):
        return False
    is_constant = bool((entry == entry[0, 0]).all())
    is_position = bool((entry == torch.arange(entry.shape[1], device=entry.device)).all())
    return is_constant or is_position or _is_mask_of_padding(entry, tokens)


def _is_mask_of_padding(mask: Tensor, tokens: Tensor) -> bool:
    """Return whether one token stands where the mask is 0, and nowhere else; False if it is 0 nowhere."""
    filler_tokens = tokens[mask == 0]
    return bool(len(filler_tokens)) and torch.equal(tokens == filler_tokens[0], mask == 0)


class FrontPadding:
    """Warn once if the first batches hold sequences that are padded at the front, which moves their tokens."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def look(self, entries: Iterable[tuple[Path, Tensor]]) -> None:
        """Look at the entry ``attention_mask`` of a batch, if there is one; waits for the device."""
        if not self._looks:
            return
        self._looks -= 1
        masks = [leaf for path, leaf in entries if path and path[-1] == MASK and leaf.ndim == 2 and leaf.numel()]
        if any(is_filled_at_front(mask) for mask in masks):
            self._looks = 0
            warn(
                f"Expected sequences that are filled up at their end, got some whose `{MASK}` begins with 0. A token "
                "then has another position in each batch, so `unit` and `unit_forgetting_events` may mix tokens; the "
                "numbers of whole sequences are right. Fill up at the end: `tokenizer.padding_side = 'right'`."
            )


def is_filled_at_front(mask: Tensor) -> bool:
    """Return whether a row (T,) of a mask (N, T) begins with 0 and has another number later.

    Example:
        >>> is_filled_at_front(torch.tensor([[0, 1, 1]])), is_filled_at_front(torch.tensor([[1, 1, 0], [0, 0, 0]]))
        (True, False)
    """
    return bool(((mask[:, 0] == 0) & (mask != 0).any(dim=1)).any())
