"""Compute maps and metrics of samples, in the memory that there is."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dynalens.attribution import (
    Explanation,
    Method,
    check_methods,
    contrast,
    explain,
    find_target_layer,
    pixel_relevance,
    token_relevance,
)
from dynalens.attribution.methods import BUILT_IN, takes
from dynalens.explanations.dense import ExplainedUnit
from dynalens.explanations.forms import (
    Forward,
    Query,
    check_crops,
    check_floating_copies,
    check_outputs,
    explained_form,
    forward_in_network,
    forward_of_form,
    in_rows,
    is_table,
    model_form,
)
from dynalens.explanations.noise import Noise
from dynalens.explanations.result import RANDOM, ExplanationResult
from dynalens.explanations.robustness import Robustness, measured_robustness, none_of
from dynalens.explanations.samples import Passed, PassedSuspects
from dynalens.explanations.task import Task
from dynalens.explanations.tokens import check_in_vocabulary, with_mask
from dynalens.faithfulness import (
    METRICS_OF_EPOCHS,
    METRICS_OF_REGIONS,
    METRICS_UNDER_NOISE,
    CurveSettings,
    Faithfulness,
    Independent,
    chunk_size_for,
    class_logits,
    measure,
    random_ranking,
    rank_correlation,
    runner_up,
)
from dynalens.notices import warn
from dynalens.observation import device_of, is_tokens
from dynalens.text import error_in_words

T = TypeVar("T")
P = TypeVar("P", str, Method)

_MAP_CHUNK = 32


@dataclass
class Explainer:
    """Explains all samples in the same way, and remembers how many images fit into memory at once.

    Attributes:
        methods: Names of maps, or callables.
        metrics: Names of metrics.
        settings: How curves are measured.
        method_args: Arguments of the methods, by name.
        target_layer: Dotted name of the layer of class activation maps; None until it is looked for.
        chunk_size: Number of images in one pass; None until memory has run out.
        forward: Callable(model, inputs) -> logits; default: the model, or its only child that gives logits.
        strict: Whether a method or metric that fails raises. If not, it is left out from then on, with a warning.
        robustness: Names of attacks and corruptions.
        optional: Names of methods and metrics that nobody asked for: where they are not defined, nothing is said.
        unit: The token or region of the samples that is explained, if a network has logits for each.
        task: What is known of the outputs and the inputs of the model.
    """

    methods: Sequence[Method]
    metrics: Sequence[str]
    settings: CurveSettings
    method_args: dict[str, dict[str, Any]] | None = None
    target_layer: str | None = None
    chunk_size: int | None = field(default=None, init=False)
    forward: Callable[[Any, Tensor], Tensor] | None = None
    strict: bool = False
    robustness: Sequence[str] = ()
    optional: Collection[str] = ()
    unit: ExplainedUnit | None = field(default=None, init=False)
    task: Task = field(default_factory=Task, init=False)

    def take(self, task: Task) -> None:
        """Take what is known of the model's outputs and inputs. A regression has no metrics of classes."""
        self.task = task
        of_numbers = [name for name in self.metrics if name in (*METRICS_OF_EPOCHS, *METRICS_OF_REGIONS)]
        if task.numbers and len(of_numbers) < len(self.metrics):
            names = [name for name in self.metrics if name not in (*of_numbers, *self.optional)]
            self.metrics = of_numbers
            if names:
                warn(
                    f"These metrics are left out: {', '.join(names)}. They need logits of classes, which a regression "
                    "does not have. Leave them out of `metrics` to silence this warning."
                )

    def explanation_of(
        self,
        model: nn.Module,
        samples: Passed,
        *,
        targets: Tensor | None = None,
        predicted: bool = False,
        regions: Tensor | None = None,
    ) -> ExplanationResult:
        """Return maps and metrics of the samples.

        Args:
            model: The module.
            samples: Ids, inputs as the batch holds them, and labels.
            targets: Classes to explain, (N,); default: the labels.
            predicted: Whether to explain the predicted classes instead.
            regions: Masks of the object, (N, *spatial), for the metrics that need them.
        """
        inputs, labels = _on_device_of(model, samples[1], samples[2])
        if is_table(inputs) and self.settings.baseline == "blur":  # columns have no neighbours
            self.settings = replace(self.settings, baseline="zero")
        forward, images = self.forward_of(model, inputs), explained_form(inputs)
        if predicted:
            logits = self._in_memory(
                images, lambda: class_logits(model, images, forward=forward, chunk_size=self.chunk_size)
            )
            targets = logits.argmax(dim=1)
        query = Query(model, forward, images, labels if targets is None else targets)
        result = self._in_memory(images, lambda: self._explanation_of_images(query, labels, samples[0], regions))
        return replace(result, table=is_table(inputs), task=self.task)

    def explained_twice(self, model: nn.Module, suspects: PassedSuspects) -> dict[str, ExplanationResult]:
        """Return maps and metrics of suspects for the given class, "label", and for the predicted one, "prediction".

        With several labels, and for a regression, there is "label" alone: its map shows what speaks for the label.
        """
        for_label = self.explanation_of(model, suspects)
        if not self.task.has_classes:
            return {"label": for_label}
        predicted = for_label.explanation.logits.argmax(dim=1)
        return {"label": for_label, "prediction": self.explanation_of(model, suspects, targets=predicted)}

    def robust(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Robustness | None:
        """Return what attacks and corruptions do to samples; None if none is asked for."""
        if not self.task.has_classes:
            self.robustness = none_of(self.robustness)
        if not self.robustness:
            return None
        inputs, labels = _on_device_of(model, inputs, labels)
        forward, images = self.forward_of(model, inputs), explained_form(inputs)

        def robustness_of(checks: Sequence[str]) -> Robustness:
            return self._in_memory(
                images,
                lambda: measured_robustness(
                    model, forward, images, labels, checks, seed=self.settings.seed, chunk_size=self.chunk_size
                ),
            )

        robustness, self.robustness = self._of_working(self.robustness, robustness_of)
        return replace(robustness, table=is_table(inputs))

    def contrast_maps(
        self, model: nn.Module, inputs: Tensor, suggestions: Tensor, labels: Tensor, *, method: str
    ) -> Tensor:
        """Return, (N, *spatial), what speaks for the suggested classes (N,) and against the labels (N,)."""
        inputs, suggestions, labels = _on_device_of(model, inputs, suggestions, labels)
        forward, images = self.forward_of(model, inputs), explained_form(inputs)
        own_arguments = dict((self.method_args or {}).get(method, {}))
        if takes(BUILT_IN[method], "target_layer"):
            own_arguments.setdefault("target_layer", self.target_layer)

        def maps() -> Tensor:
            arguments = {"forward": forward, "chunk_size": self.chunk_size, **own_arguments}
            return contrast(model, images, suggestions, labels, method=method, **arguments)

        return pixel_relevance(method, self._in_memory(images, maps), images.shape[2:])

    def forward_of(self, model: nn.Module, inputs: Tensor) -> Forward:
        """Return the function that computes the logits of inputs in the form that is explained."""
        images = model_form(explained_form(inputs), inputs)
        forward = self._model_forward(model, images, dense=self.unit is not None)
        check_floating_copies(model, forward, inputs)
        if self.task.numbers and self.task.outputs is not None:
            check_outputs(model, forward, images, self.task.outputs)
        run = forward_of_form(forward, inputs)
        if self.unit is not None:
            unit = self.unit.at_logits(self.task.shift, inputs.shape[1])

            def of_unit(inputs_of_unit: Tensor) -> Tensor:
                return unit.logits(run(inputs_of_unit))

            return Independent(of_unit) if self.task.independent else of_unit
        return Independent(in_rows(run)) if self.task.independent else run

    def units_forward(self, model: nn.Module, inputs: Tensor) -> tuple[Forward, Tensor]:
        """Return the function that computes the logits of all tokens or pixels, and the inputs that it takes."""
        (inputs,) = _on_device_of(model, inputs)
        images = model_form(explained_form(inputs), inputs)
        return self._model_forward(model, images, dense=True), images

    def _model_forward(self, model: nn.Module, images: Tensor, *, dense: bool) -> Forward:
        form = self.task.form
        if form is None or not form.takes_crops:
            return self._forward_in_network(model, images, dense=dense)
        network_input = form.network_input
        forward = self._forward_in_network(model, network_input(images), dense=dense)
        check_crops(model, forward, network_input(images))
        return lambda x: forward(network_input(x))

    def _forward_in_network(self, model: nn.Module, images: Tensor, *, dense: bool) -> Forward:
        if self.forward:
            return functools.partial(self.forward, model)
        wrap = functools.partial(with_mask, tokens=images, padding=self.task.padding)
        return forward_in_network(model, images, self.task.network, dense=dense, wrap=wrap)

    def _in_memory(self, images: Tensor, function: Callable[[], T]) -> T:
        while True:
            try:
                return function()
            except torch.OutOfMemoryError:
                if self.chunk_size == 1:
                    raise
            # Outside of the handler, whose error keeps alive what filled the memory.
            self.chunk_size = (self.chunk_size or max(_MAP_CHUNK, chunk_size_for(images))) // 2

    def _explanation_of_images(
        self, query: Query, labels: Tensor, ids: Sequence[int | str] | None, regions: Tensor | None
    ) -> ExplanationResult:
        if is_tokens(query.images):
            check_in_vocabulary(query.model, self.settings.baseline)
        explanation = self._maps(query)
        relevance = self._relevance(explanation, query.images)
        measure = functools.partial(self._faithfulness_of, query, explanation.logits, regions)
        results = {method: measure(maps) for method, maps in relevance.items()}
        control = random_ranking(query.images, self.settings.seed)
        if any(result.values for result in results.values()):
            results[RANDOM] = measure(control)
        for method, noisy in self._under_noise(query, explanation, relevance | {RANDOM: control}).items():
            results.setdefault(method, Faithfulness({}, {})).values.update(noisy)
        for method, values in self._class_sensitivity(query, explanation, relevance).items():
            results[method].values["class_sensitivity"] = values
        return ExplanationResult(query.images, labels, query.targets, explanation, relevance, results, ids)

    def _faithfulness_of(self, query: Query, logits: Tensor, regions: Tensor | None, maps: Tensor) -> Faithfulness:
        settings = replace(self.settings, chunk_size=self.chunk_size)

        def faithfulness_of(metrics: Sequence[str]) -> Faithfulness:
            return measure(
                query.model, query.images, query.targets, maps, metrics, settings, forward=query.forward,
                logits=logits, regions=regions,
            )  # fmt: skip

        result, self.metrics = self._of_working(self.metrics, faithfulness_of)
        return result

    def _under_noise(
        self, query: Query, explanation: Explanation, relevance: Mapping[str, Tensor]
    ) -> dict[str, dict[str, Tensor]]:
        """Return the metrics under noise that are asked for, (N,) each, by method. "random" has no sensitivity."""
        noisy = [name for name in self.metrics if name in METRICS_UNDER_NOISE]
        if not noisy:
            return {}
        noise = Noise(query, replace(self.settings, chunk_size=self.chunk_size))
        full_maps = {method: maps for method, maps in explanation.maps.items() if maps.shape == query.images.shape}
        measures: dict[str, Callable[[], dict[str, Tensor]]] = {
            # Signs and channels count.
            "infidelity": lambda: {m: noise.infidelity(maps) for m, maps in {**relevance, **full_maps}.items()},
            "local_fidelity": lambda: noise.local_fidelity(relevance),
            "sensitivity": lambda: noise.sensitivity(lambda x: self._maps(replace(query, images=x)).maps),
        }

        def values_under_noise(metrics: Sequence[str]) -> dict[str, dict[str, Tensor]]:
            values_of = {name: measure() for name, measure in measures.items() if name in metrics}
            return {
                method: {name: values[method] for name, values in values_of.items() if method in values}
                for method in relevance
            }

        results, usable = self._of_working(noisy, values_under_noise)
        self.metrics = [name for name in self.metrics if name not in noisy or name in usable]
        return results

    def _class_sensitivity(
        self, query: Query, explanation: Explanation, relevance: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the rank correlation of each map with that of the most probable other class, (N,)."""
        if "class_sensitivity" not in self.metrics:
            return {}
        rival_maps = self._maps(replace(query, targets=runner_up(explanation.logits, query.targets)))
        maps = self._relevance(rival_maps, query.images)
        return {method: rank_correlation(relevance[method], maps[method]) for method in maps if method in relevance}

    def _maps(self, query: Query) -> Explanation:
        def explanation_of(methods: Sequence[Method]) -> Explanation:
            names = {_name(method) for method in methods}
            return explain(
                query.model, query.images, query.targets, methods=methods, target_layer=self.target_layer,
                method_args={name: values for name, values in (self.method_args or {}).items() if name in names},
                forward=query.forward, chunk_size=self.chunk_size,
            )  # fmt: skip

        if "grad_cam" in self.methods and "grad_cam" in self.optional and self.target_layer is None:
            self._look_for_layer(query)
        explanation, self.methods = self._of_working(self.methods, explanation_of, one_must=True)
        self.target_layer = explanation.target_layer or self.target_layer  # looked for once in a run
        return explanation

    def _look_for_layer(self, query: Query) -> None:
        """Leave Grad-CAM out if the model has no feature maps."""
        try:
            self.target_layer = find_target_layer(query.model, query.images, forward=query.forward)
        except ValueError:
            self.methods = [method for method in self.methods if method != "grad_cam"]
        except RuntimeError:  # said of each method that fails
            return

    def _of_working(
        self, parts: Sequence[P], function: Callable[[Sequence[P]], T], *, one_must: bool = False
    ) -> tuple[T, Sequence[P]]:
        """Return the result of a function for the methods or metrics that do not fail, and these.

        Warn of the others.

        Args:
            parts: Methods or metrics.
            function: Is called with all parts. If it fails: with each part alone, and then with those that did not
                fail.
            one_must: Whether it is an error if none works.
        """
        try:
            return function(parts), parts
        except Exception as error:  # noqa: BLE001  # raised again where nothing is left
            usable = self._parts_that_work(parts, lambda part: function([part]), error, one_must=one_must)
        return function(usable), usable

    def _parts_that_work(
        self, parts: Sequence[P], attempt: Callable[[P], object], error: Exception, *, one_must: bool
    ) -> list[P]:
        """Return the parts that do not fail, and warn of the others. Raise if one must work and none does."""
        if self.strict or isinstance(error, torch.OutOfMemoryError):
            raise error
        failures = {_name(part): _failure(functools.partial(attempt, part)) for part in parts}
        successes = [part for part in parts if failures[_name(part)] is None]
        if len(successes) == len(parts) or (one_must and not successes):
            raise error
        for name, failure in failures.items():
            if failure is not None:
                reason = error_in_words(failure)
                warn(f"{name} is left out of the explanations, training goes on: {reason}")
        return successes

    def _relevance(self, explanation: Explanation, images: Tensor) -> dict[str, Tensor]:
        maps = explanation.maps
        if is_tokens(images):
            return {method: token_relevance(method, method_maps) for method, method_maps in maps.items()}
        return {method: pixel_relevance(method, method_maps, images.shape[2:]) for method, method_maps in maps.items()}


def _on_device_of(model: nn.Module, *tensors: Tensor) -> list[Tensor]:
    """Return the tensors on the device of the model."""
    device = device_of(model, tensors[0])
    return [tensor.to(device) for tensor in tensors]


def _failure(attempt: Callable[[], object]) -> Exception | None:
    """Return the error that an attempt raises, or None. Running out of memory is raised again."""
    try:
        attempt()
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # noqa: BLE001  # whatever it is, it is said and the others go on
        return failure
    return None


def _name(part: Method) -> str:
    return part if isinstance(part, str) else next(iter(check_methods([part])))
