"""What was explained in one epoch: the samples of every epoch, and the suspects for both their classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynalens.dynamics import Array
from dynalens.explanations.result import ExplanationResult
from dynalens.explanations.robustness import Robustness
from dynalens.pictures import ExplanationRow, Normalisation, shown_part


@dataclass(frozen=True)
class EpochExplanations:
    """The explanations of one epoch.

    Attributes:
        every_epoch: Explanations of the samples that are explained in every epoch.
        suspects: Explanations of the suspects: of the given class under "label", of the predicted class under
            "prediction".
        robustness: What attacks and corruptions do to the samples of every epoch, where asked for.
    """

    every_epoch: ExplanationResult
    suspects: dict[str, ExplanationResult]
    robustness: Robustness | None = None

    def scalars(self) -> dict[str, float]:
        """Return scalars by the end of their tag.

        They come from the samples of every epoch, because suspects change.
        """
        scalars = {f"faithfulness/{key}": mean for key, mean in self.every_epoch.means().items()}
        if self.robustness is not None:
            scalars |= {f"robustness/{key}": value for key, value in self.robustness.scalars().items()}
        return scalars

    def arrays(self) -> dict[str, Array]:
        """Return all arrays to keep on disk, by name."""
        arrays = self.every_epoch.arrays() | self.every_epoch.kept_maps()
        if self.robustness is not None:
            arrays |= self.robustness.arrays()
        for name, result in self.suspects.items():
            arrays |= result.arrays(f"suspects_{name}.")
        return arrays

    def rows(
        self,
        *,
        names: Sequence[str] | None = None,
        normalisation: Normalisation | None = None,
        decode: Callable[[int], str] | None = None,
    ) -> list[ExplanationRow]:
        """Return the rows of the sheet: the samples of every epoch, then each suspect for its two classes in turn.

        A suspect whose label is predicted has one row.
        """
        fractions = self.every_epoch.fractions()
        rows = self.every_epoch.rows(fractions, names=names, normalisation=normalisation, decode=decode)
        pairs = [
            result.rows(fractions, name, names=names, normalisation=normalisation, decode=decode)
            for name, result in self.suspects.items()
        ]
        return rows + [row for pair in zip(*pairs, strict=True) for row in _different(pair)]

    def title(self, epoch: int) -> str:
        """Return the first line of the sheet."""
        part, layer = shown_part(self.every_epoch.images.shape[1:]), self.every_epoch.explanation.target_layer
        return "; ".join([f"epoch {epoch}", *([part] if part else []), *([f"Grad-CAM of {layer}"] if layer else [])])


def _different(pair: Sequence[ExplanationRow]) -> Sequence[ExplanationRow]:
    is_one_class = pair[0].explained_for == "label" and pair[0].is_correct
    return pair[:1] if is_one_class else pair
