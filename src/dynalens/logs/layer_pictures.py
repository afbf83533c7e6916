"""Draw what a layer computes: grids of filters, maps and inputs."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dynalens.features import TopInputs
from dynalens.pictures import (
    Normalisation,
    PicturePace,
    class_name,
    filters_grid,
    labelled_grid,
    maps_grid,
    shown_inputs,
)
from dynalens.tensorboard import Sink

_COLUMNS = 8


class LayerPictures:
    """Draws what a layer computes and writes the pictures.

    Args:
        sink: Where they go.
        prefix: What tags begin with.

    Attributes:
        names: Name of each class, or None.
        normalisation: Of the inputs, or None.
    """

    def __init__(self, sink: Sink, prefix: str) -> None:
        self._sink, self._prefix = sink, f"{prefix}/layers"
        self.names: Sequence[str] | None = None
        self.normalisation: Normalisation | None = None
        self._pace = PicturePace()

    def offer(self, writes: Sequence[Callable[[], None]]) -> None:
        """Draw the pictures of an epoch now, or at the end if they are the last.

        In a long training, some are never drawn.
        """

        def draw() -> None:
            for write in writes:
                write()

        self._pace.offer(draw)

    def finish(self) -> None:
        """Draw the last pictures, unless they are drawn already."""
        self._pace.finish()

    def write_filters(self, layer: str, weights: Tensor, epoch: int, step: int) -> None:
        """Write the filters of a convolution."""
        grid = filters_grid(weights.cpu(), f"epoch {epoch}: filters of {layer}")
        self._sink.chart(f"{self._prefix}/weights", grid, step)

    def write_maps(
        self, images: Tensor, maps: Tensor, layer: str, channels: Sequence[int], epoch: int, step: int
    ) -> None:
        """Write the feature maps of some channels for each image."""
        pictures = shown_inputs(images, self.normalisation)
        grid = maps_grid(pictures, maps.cpu().numpy(), channels, f"epoch {epoch}: feature maps of {layer}")
        self._sink.image(f"{self._prefix}/feature_maps", grid, step)

    def write_top_inputs(self, top: TopInputs, layer: str, epoch: int, step: int) -> None:
        """Write the strongest inputs of each channel."""
        rows = []
        for channel, values, images in zip(top.channels, top.activations.tolist(), top.images, strict=True):
            finite_values = [value for value in values if value > float("-inf")]
            cells = shown_inputs(images[: len(finite_values)], self.normalisation)
            label = (
                f"channel {channel}: {finite_values[0]:.3g} to {finite_values[-1]:.3g}"
                if finite_values
                else f"channel {channel}: none"
            )
            rows.append((label, cells[:_COLUMNS]))
            rows += [("", cells[i : i + _COLUMNS]) for i in range(_COLUMNS, len(cells), _COLUMNS)]
        title = f"epoch {epoch}: inputs that excite {layer} most"
        grid = labelled_grid(rows, title, "largest value of the channel's map, strongest first")
        self._sink.image(f"{self._prefix}/top_inputs", grid, step)

    def write_maximised(
        self, images: Tensor, units: Sequence[int], layer: str | None, step: int, *, number: int
    ) -> None:
        """Write the images that maximise these classes or channels, of so many that there are."""
        pictures = shown_inputs(images, self.normalisation)
        names = [class_name(unit, self.names) if layer is None else str(unit) for unit in units]
        rows = [
            (names[start : start + _COLUMNS], pictures[start : start + _COLUMNS])
            for start in range(0, len(pictures), _COLUMNS)
        ]
        kind, unit_count = "classes" if layer is None else f"channels of {layer}", len(set(units))
        title = f"images that maximise {kind if unit_count == number else f'{unit_count} of {number} {kind}'}"
        self._sink.image(f"{self._prefix}/maximised", labelled_grid(rows, title, "by gradient ascent"), step)
