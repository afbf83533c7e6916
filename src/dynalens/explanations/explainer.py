"""From a model and some samples to their maps and metrics, in as much memory as there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dynalens.attribution import Explanation, Method, contrast, explain, pixel_relevance, token_relevance
from dynalens.attribution.methods import BUILT_IN, takes
from dynalens.explanations.result import RANDOM, ExplanationResult
from dynalens.explanations.tokens import check_in_vocabulary
from dynalens.faithfulness import (
    CurveSettings,
    Faithfulness,
    attribution_drift,
    chunk_size_for,
    class_logits,
    measure,
    random_ranking,
    rank_correlation,
    runner_up,
)
from dynalens.observation import is_tokens

Forward = Callable[[Tensor], Tensor]
T = TypeVar("T")

_MAP_CHUNK = 32


@dataclass
class Explainer:
    """Explains samples always in the same way; remembers how many images fit into memory at once.

    Attributes:
        methods: Names of maps, or callables.
        metrics: Names of metrics.
        settings: How curves are measured.
        method_args: Arguments of the methods, by name.
        target_layer: Dotted name of the layer of class activation maps; None until it is looked for.
        chunk_size: Images in one pass; None until memory has run out.
    """

    methods: Sequence[Method]
    metrics: Sequence[str]
    settings: CurveSettings
    method_args: dict[str, dict[str, Any]] | None = None
    target_layer: str | None = field(default=None, init=False)
    chunk_size: int | None = field(default=None, init=False)

    def explained(
        self,
        model: nn.Module,
        forward: Forward,
        images: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        ids: Sequence[int | str] | None = None,
    ) -> ExplanationResult:
        """Return maps and metrics of the targets, by default the labels."""
        wanted = labels if targets is None else targets
        return self._in_memory(images, lambda: self._explained(model, forward, images, labels, wanted, ids))

    def predicted(self, model: nn.Module, forward: Forward, images: Tensor) -> Tensor:
        """Return the class of the largest logit of each image."""
        logits = self._in_memory(
            images, lambda: class_logits(model, images, forward=forward, chunk_size=self.chunk_size)
        )
        return logits.argmax(dim=1)

    def contrasted(
        self, model: nn.Module, forward: Forward, images: Tensor, of: Tensor, against: Tensor, method: str
    ) -> Tensor:
        """Return, (N, *spatial), what speaks for the classes ``of`` (N,) and against those of ``against``."""
        own = dict((self.method_args or {}).get(method, {}))
        if takes(BUILT_IN[method], "target_layer"):
            own.setdefault("target_layer", self.target_layer)

        def maps() -> Tensor:
            return contrast(
                model, images, of, against, method=method, **{"forward": forward, "chunk_size": self.chunk_size, **own}
            )

        return pixel_relevance(method, self._in_memory(images, maps), images.shape[2:])

    def _in_memory(self, images: Tensor, function: Callable[[], T]) -> T:
        while True:
            try:
                return function()
            except torch.OutOfMemoryError:
                if self.chunk_size == 1:
                    raise
            # Outside of the handler, whose error keeps alive what filled the memory.
            self.chunk_size = (self.chunk_size or max(_MAP_CHUNK, chunk_size_for(images))) // 2

    def _explained(
        self,
        model: nn.Module,
        forward: Forward,
        images: Tensor,
        labels: Tensor,
        targets: Tensor,
        ids: Sequence[int | str] | None,
    ) -> ExplanationResult:
        if is_tokens(images):
            check_in_vocabulary(model, self.settings.baseline)
        explanation = self._maps(model, forward, images, targets)
        relevance = self._relevance(explanation, images)
        settings = replace(self.settings, chunk_size=self.chunk_size)

        def measured(maps: Tensor) -> Faithfulness:
            return measure(
                model, images, targets, maps, self.metrics, settings, forward=forward, logits=explanation.logits
            )

        found = {method: measured(maps) for method, maps in relevance.items()}
        if any(of.values for of in found.values()):
            found[RANDOM] = measured(random_ranking(images, settings.seed))
        if "class_sensitivity" in self.metrics:
            others = self._maps(model, forward, images, runner_up(explanation.logits, targets))
            for method, maps in self._relevance(others, images).items():
                found[method].values["class_sensitivity"] = rank_correlation(relevance[method], maps)
        return ExplanationResult(images, labels, targets, explanation, relevance, found, ids)

    def _maps(self, model: nn.Module, forward: Forward, images: Tensor, targets: Tensor) -> Explanation:
        explanation = explain(
            model, images, targets, methods=self.methods, method_args=self.method_args, target_layer=self.target_layer,
            forward=forward, chunk_size=self.chunk_size,
        )  # fmt: skip
        self.target_layer = explanation.target_layer  # looked for once in a run
        return explanation

    def _relevance(self, explanation: Explanation, images: Tensor) -> dict[str, Tensor]:
        maps = explanation.maps
        if is_tokens(images):
            return {method: token_relevance(method, of_one) for method, of_one in maps.items()}
        return {method: pixel_relevance(method, of_one, images.shape[2:]) for method, of_one in maps.items()}


@dataclass
class EarlierMaps:
    """The maps of earlier epochs, which those of the same samples are compared with.

    Attributes:
        first: For each method, its maps in the first explanation.
        last: For each method, its maps in the explanation before.
    """

    first: Mapping[str, Tensor] = field(default_factory=dict)
    last: Mapping[str, Tensor] = field(default_factory=dict)

    def compare(self, explained: ExplanationResult, metrics: Sequence[str]) -> None:
        """Add "attribution_drift" and "randomisation_check", where asked for, and remember these maps."""
        for name, earlier in (("attribution_drift", self.last), ("randomisation_check", self.first)):
            for method, maps in explained.relevance.items():
                before = earlier.get(method)
                if name in metrics and before is not None and before.shape == maps.shape:
                    explained.measured[method].values[name] = attribution_drift(maps, before.to(maps.device))
        self.last = explained.relevance
        self.first = self.first or explained.relevance
