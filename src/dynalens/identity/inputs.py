"""Which operations of a step were given the inputs of the batch, so that it is known what was computed from these."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from dynalens.observation import nodes_behind


class InputUse:
    """Note the first operations with gradients that a step gives the inputs of its batch, or what it made of these."""

    def __init__(self) -> None:
        self._inputs: dict[int, Tensor] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._operations: dict[Any, int] = {}

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """A step with these inputs begins; none where it has ended."""
        self._inputs = {id(each): each for each in inputs}
        self._made = {id(each): (weakref.ref(each), id(each)) for each in inputs}
        self._operations = {}

    def note(self, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Note a call of torch; what it makes of inputs is held by nobody here."""
        source = next(self._sources(args, kwargs), None)
        if source is None:
            return
        for value in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(value, Tensor):
                continue
            if value.grad_fn is None:
                self._made[id(value)] = weakref.ref(value), source
            else:
                self._operations.setdefault(value.grad_fn, source)

    def lead_to(self, values: Tensor) -> bool:
        """Return whether values were computed from inputs; rows with one 1 each may be labels, and tell nothing."""
        behind = nodes_behind([values.grad_fn])
        used_inputs = {self._operations[node] for node in behind if node in self._operations}
        return any(not _is_one_hot(self._inputs[each]) for each in used_inputs)

    def _sources(self, args: Any, kwargs: Mapping[str, Any]) -> Iterator[int]:
        for value in (*args, *kwargs.values()) if kwargs else args:
            for each in value if isinstance(value, tuple | list) else (value,):
                entry = self._made.get(id(each))
                if entry is not None and entry[0]() is each:
                    yield entry[1]


def _is_one_hot(values: Tensor) -> bool:
    return values.ndim == 2 and bool((((values == 0) | (values == 1)).all(dim=1) & (values.sum(dim=1) == 1)).all())
