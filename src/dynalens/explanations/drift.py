"""Compare maps with those of the same samples in earlier epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dynalens.explanations.result import ExplanationResult
from dynalens.faithfulness import attribution_drift, normalised


@dataclass
class EarlierMaps:
    """The maps of earlier epochs.

    Attributes:
        first: For each method, its maps in the first explanation.
        previous_maps: For each method, its maps in the explanation before.
        total: For each method, the sum of its normalised maps in all explanations so far.
    """

    first_maps: Mapping[str, Tensor] = field(default_factory=dict)
    previous_maps: Mapping[str, Tensor] = field(default_factory=dict)
    total: Mapping[str, Tensor] = field(default_factory=dict)

    def compare(self, result: ExplanationResult, metrics: Sequence[str]) -> None:
        """Add the metrics that compare epochs, if they are asked for, and remember these maps.

        The metrics are "attribution_drift", "randomisation_check" and "consensus", which compares with the mean of all
        earlier epochs.
        """
        earlier_maps_of = {
            "attribution_drift": self.previous_maps,
            "randomisation_check": self.first_maps,
            "consensus": self.total,
        }
        for name, last_maps in earlier_maps_of.items():
            for method, maps in result.relevance.items():
                earlier_maps = last_maps.get(method)
                if name in metrics and earlier_maps is not None and earlier_maps.shape == maps.shape:
                    result.faithfulness[method].values[name] = attribution_drift(maps, earlier_maps.to(maps.device))
        self.previous_maps = result.relevance
        self.first_maps = self.first_maps or result.relevance
        if "consensus" in metrics:
            self.total = {method: self._running_sum(method, maps) for method, maps in result.relevance.items()}

    def _running_sum(self, method: str, maps: Tensor) -> Tensor:
        total, maps_now = self.total.get(method), normalised(maps)
        return maps_now if total is None or total.shape != maps_now.shape else total.to(maps_now.device) + maps_now
