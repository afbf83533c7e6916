"""Grids of what a layer computes: filters, maps of its channels, and the inputs to which they respond most."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from dynalens.dynamics import Array
from dynalens.pictures.card import GAP, LINE, TEXT, WIDTH, Card
from dynalens.pictures.drawing import FAINT, GRID, HEAT, colours_of, write
from dynalens.pictures.inputs import shown_inputs
from dynalens.pictures.overlays import Shown, input_cell, signal_cell

_COLUMNS = 8
_MOST_FILTERS = 64
_SCALE = 2
_SIDE = (WIDTH - GAP) // _COLUMNS - GAP
_SERIES = 3  # number of axes of series (N, C, L)


def filters_grid(weights: Tensor, title: str) -> Image.Image:
    """Return the first 64 filters of a layer. Each has its own scale, and weights of 0 are grey.

    Args:
        weights: Shape ``(F, C, H, W)``, ``(F, C, D, H, W)`` or ``(F, C, L)``; three channels are colours.
        title: First line.
    """
    filters = weights[:_MOST_FILTERS].float()
    dims = tuple(range(1, filters.ndim))
    greys = 0.5 + 0.5 * filters / filters.abs().amax(dim=dims, keepdim=True).clamp(min=1e-12)
    is_series = filters.ndim == _SERIES
    cells = [_lines(filter_) for filter_ in greys.numpy()] if is_series else [*shown_inputs(greys)]
    rows = [("", cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    return labelled_grid(
        rows, title, f"{len(cells)} of {len(weights)} filters; {'the middle' if is_series else 'grey'} is 0"
    )


def maps_grid(inputs: Sequence[Shown], maps: Array, channels: Sequence[int], title: str) -> Image.Image:
    """Return a row for each input, with the input and the maps of some channels.

    Args:
        inputs: N inputs as sheets show them.
        maps: Shape ``(N, F, H, W)`` or ``(N, F, L)``; each channel is on the scale of all inputs.
        channels: Numbers of the channels.
        title: First line.
    """
    values = np.nan_to_num(maps[:, list(channels)], posinf=0, neginf=0)
    axes = (0, *range(2, values.ndim))
    low, high = values.min(axis=axes, keepdims=True), values.max(axis=axes, keepdims=True)
    strength = (values - low) / np.maximum(high - low, 1e-12)
    rows: list[tuple[str, list[Shown | Image.Image]]] = []
    for picture, strengths in zip(inputs, strength, strict=True):
        cells = [_map(strength_map) for strength_map in strengths]
        for start in range(0, len(cells), _COLUMNS - 1):
            first_cell = picture if start == 0 else np.full((1, 1, 3), 255, np.uint8)
            rows.append(("", [first_cell, *cells[start : start + _COLUMNS - 1]]))
    names = ", ".join(str(channel) for channel in channels)
    subtitle = f"input, then channels {names}; {'high' if maps.ndim == _SERIES else 'bright'} is much"
    return labelled_grid(rows, title, subtitle)


def labelled_grid(
    rows: Sequence[tuple[str | Sequence[str], Sequence[Shown | Image.Image]]], title: str, subtitle: str = ""
) -> Image.Image:
    """Return rows of up to eight cells, each row below its label; an empty label takes no room.

    Args:
        rows: For each row, its label or the label of each cell, and its cells in the form of sheets or drawn.
        title: First line.
        subtitle: Second line.
    """
    side, top = _SIDE, 2 * LINE + 6
    heights = [side + GAP + (LINE if label else 0) for label, _ in rows]
    card = Card(top + sum(heights), _SCALE)
    write(card.draw, (GAP, 2), title, TEXT + 1, width=WIDTH - 2 * GAP)
    write(card.draw, (GAP, 2 + LINE), subtitle, TEXT, fill=FAINT, width=WIDTH - 2 * GAP)
    y = top
    for (label, cells), height in zip(rows, heights, strict=True):
        if isinstance(label, str):
            write(card.draw, (GAP, y - 3), label, TEXT, width=WIDTH - 2 * GAP)
        else:
            for column, name in enumerate(label):
                write(card.draw, (GAP + column * (side + GAP), y - 3), name, TEXT, width=side + GAP - 2)
        for column, cell in enumerate(cells):
            picture = cell if isinstance(cell, Image.Image) else input_cell(cell, (side * _SCALE, side * _SCALE))
            card.paste(picture, (GAP + column * (side + GAP), y + (LINE if label else 0)), GRID)
        y += height
    return card.image()


def _map(strength: Array) -> Shown | Image.Image:
    """Return a map (H, W) in colour, the middle slice of a volume, or a series (L,) as a line between 0 and 1."""
    if strength.ndim == 1:
        return _lines(strength[None])
    flat = strength if strength.ndim == 2 else strength[len(strength) // 2]
    return colours_of(flat, HEAT).round().astype(np.uint8)


def _lines(signal: Array) -> Image.Image:
    """Return a line between 0 and 1 for each channel of a signal (C, L)."""
    return signal_cell(signal, None, (_SIDE * _SCALE, _SIDE * _SCALE), is_signed=False, limits=(0.0, 1.0))
