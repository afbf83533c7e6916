"""Which operations of a step used the inputs of the batch, and so what was computed from them."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from dynalens.observation import nodes_behind

Node = Any
"""A node of autograd's graph."""
Origin = int | Node
"""The ``id`` of an input, or the node that computed a tensor before it was detached."""


class InputUse:
    """Remember the first operations with gradients that use the inputs of the batch, or what was computed from them.

    A probe beside another loss uses detached features. They are followed to the graph that they were detached from.
    """

    def __init__(self) -> None:
        self._inputs: dict[int, Tensor] = {}
        self._origins: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}
        self._operations: dict[Node, Origin] = {}

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """A step with these inputs begins; an empty list if it has ended."""
        self._inputs = {id(value): value for value in inputs}
        self._origins = {id(value): (weakref.ref(value), id(value)) for value in inputs}
        self._operations = {}

    def note(self, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Remember a call of torch. Its results are not kept alive."""
        source = next(self._sources(args, kwargs), None)
        for value in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(value, Tensor):
                continue
            if value.grad_fn is not None:
                if source is not None:
                    self._operations.setdefault(value.grad_fn, source)
            elif (origin := source or next(_nodes(args, kwargs), None)) is not None:
                self._origins[id(value)] = weakref.ref(value), origin

    def lead_to_constant(self, values: Tensor) -> bool:
        """Return whether values without a graph are inputs or were computed from them, as :meth:`lead_to` does."""
        entry = self._origins.get(id(values))
        if entry is None or entry[0]() is not values:
            return False
        origin = entry[1]
        return self._tells(origin) if isinstance(origin, int) else self.lead_from({origin})

    def lead_to(self, values: Tensor) -> bool:
        """Return whether values were computed from inputs. One-hot inputs do not count, because they may be labels."""
        return self.lead_from({values.grad_fn})

    def lead_from(self, found_nodes: set[Node]) -> bool:
        """Return whether operations computed with inputs, as :meth:`lead_to` does."""
        origins: set[Origin] = set()
        while found_nodes:
            nodes = nodes_behind(list(found_nodes))
            new_origins = {self._operations[node] for node in nodes if node in self._operations} - origins
            origins |= new_origins
            found_nodes = {origin for origin in new_origins if not isinstance(origin, int)}
        return any(isinstance(value, int) and self._tells(value) for value in origins)

    def _tells(self, identity: int) -> bool:
        return not _is_one_hot(self._inputs[identity])

    def _sources(self, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Origin]:
        for value in operands(args, kwargs):
            entry = self._origins.get(id(value))
            if entry is not None and entry[0]() is value:
                yield entry[1]


def operands(args: Any, kwargs: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Any]:
    """Yield the arguments of a call of torch, and the entries of those that are lists of tensors."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        yield from value if isinstance(value, tuple | list) else (value,)


def _nodes(args: Any, kwargs: Mapping[str, Any]) -> Iterator[Node]:
    return (
        value.grad_fn for value in operands(args, kwargs) if isinstance(value, Tensor) and value.grad_fn is not None
    )


def _is_one_hot(values: Tensor) -> bool:
    return values.ndim == 2 and bool((((values == 0) | (values == 1)).all(dim=1) & (values.sum(dim=1) == 1)).all())
