"""Metrics of maps under noise in the images: do maps predict the logits, and how much do they change themselves?"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from dynalens.explanations.forms import Query
from dynalens.faithfulness import CurveSettings, PerturbedLogits, infidelity, sensitivity_max


@dataclass(frozen=True)
class Noise:
    """Measures maps, with the same noise in every epoch.

    Attributes:
        query: The question that the maps answer.
        settings: Settings of the curves: what replaces patches, the seed of the noise, and images per pass.
    """

    query: Query
    settings: CurveSettings

    def local_fidelity(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return :func:`~dynalens.local_fidelity` of the maps (N, *spatial) of each method, (N,); they share passes."""
        query, settings = self.query, self.settings
        perturbation = PerturbedLogits.from_model(
            query.model, query.images, query.targets, baseline=settings.baseline, seed=settings.seed,
            forward=query.forward, chunk_size=settings.chunk_size,
        )  # fmt: skip
        return {method: perturbation.fidelity(method_maps) for method, method_maps in maps.items()}

    def infidelity(self, maps: Tensor) -> Tensor:
        """Return :func:`~dynalens.infidelity`, ``(N,)``, of maps (N, C, *spatial) at the scale at which it is smallest.

        Maps (N, *spatial) count equally for all channels. The scaling makes rankings and maps of any magnitude
        comparable.
        """
        query = self.query
        channel_maps = maps if maps.ndim == query.images.ndim else maps.unsqueeze(1).expand_as(query.images)
        return infidelity(
            query.model, query.images, query.targets, channel_maps, normalize=True, forward=query.forward,
            chunk_size=self.settings.chunk_size,
        )  # fmt: skip

    def sensitivity(self, explain: Callable[[Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return :func:`~dynalens.sensitivity_max` of each method, (N,); the methods share their passes.

        Args:
            explain: Function that computes the maps of all methods for images.
        """
        results = [explain(self.query.images)]

        def maps_of(method: str) -> Callable[[Tensor], Tensor]:
            calls: Iterator[int] = count()

            def maps_under_noise(images: Tensor) -> Tensor:  # the same noise is drawn for each method
                call = next(calls)
                if call == len(results):
                    results.append(explain(images))
                return results[call][method]

            return maps_under_noise

        return {method: sensitivity_max(maps_of(method), self.query.images) for method in results[0]}
