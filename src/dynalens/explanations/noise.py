"""What noise in the images says of maps: whether they foretell the logits, and how far they change themselves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from torch import Tensor, nn

from dynalens.explanations.forms import Forward
from dynalens.faithfulness import Baseline, PerturbedLogits, infidelity, sensitivity_max


@dataclass(frozen=True)
class Noise:
    """Measures maps under the same noise in every epoch.

    Attributes:
        model: The module.
        forward: Gives its logits.
        images: Shape ``(N, C, *spatial)``.
        targets: Shape ``(N,)``.
        chunk_size: Images in one pass, or None.
        baseline: What replaced patches show.
        seed: Seed of the patches that are replaced.
    """

    model: nn.Module
    forward: Forward
    images: Tensor
    targets: Tensor
    chunk_size: int | None
    baseline: Baseline
    seed: int

    def local_fidelity(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return :func:`~dynalens.local_fidelity` of the maps (N, *spatial) of each method, (N,); they share passes."""
        perturbed = PerturbedLogits.of(
            self.model, self.images, self.targets, baseline=self.baseline, seed=self.seed, forward=self.forward,
            chunk_size=self.chunk_size,
        )  # fmt: skip
        return perturbed.fidelities(maps)

    def infidelity(self, maps: Tensor) -> Tensor:
        """Return :func:`~dynalens.infidelity` of maps (N, C, *spatial), scaled so that it is least: shape ``(N,)``.

        Maps (N, *spatial) without channels count alike for each of them. Scaling lets rankings and maps of any
        magnitude be compared.
        """
        of_channels = maps if maps.ndim == self.images.ndim else maps.unsqueeze(1).expand_as(self.images)
        return infidelity(
            self.model, self.images, self.targets, of_channels, normalize=True, forward=self.forward,
            chunk_size=self.chunk_size,
        )  # fmt: skip

    def sensitivity(self, explain: Callable[[Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return :func:`~dynalens.sensitivity_max` of each method, (N,); the methods share their passes.

        Args:
            explain: Gives the maps of all methods for images.
        """
        results: list[Mapping[str, Tensor]] = []

        def maps_of(method: str) -> Callable[[Tensor], Tensor]:
            calls: Iterator[int] = count()

            def explained(images: Tensor) -> Tensor:  # the same noise is drawn for each method
                call = next(calls)
                if call == len(results):
                    results.append(explain(images))
                return results[call][method]

            return explained

        first = explain(self.images)
        results.append(first)
        return {method: sensitivity_max(maps_of(method), self.images) for method in first}
