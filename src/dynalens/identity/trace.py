"""Which rows of the batch the targets of a loss are, followed through what the step does to the batch's labels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynalens.identity.columns import parts
from dynalens.identity.inputs import InputUse

# Functions of one number for each row, and those that give a row another form.
_SAME_ROWS = frozenset({
    "long", "int", "short", "to", "type", "type_as", "float", "double", "half", "bfloat16", "bool", "cpu", "cuda",
    "view", "reshape", "flatten", "ravel", "squeeze", "unsqueeze", "clone", "contiguous", "detach", "__get__", "alias",
    "add", "sub", "rsub", "__sub__", "__rsub__", "__add__", "__radd__", "mul", "remainder", "div", "clamp", "clip",
    "eq", "ne", "gt", "ge", "lt", "le", "__eq__", "__ne__", "__gt__", "__ge__", "__lt__", "__le__", "__or__", "__and__",
    "masked_fill", "where", "one_hot", "round", "nan_to_num", "argmax",
})  # fmt: skip
# Functions that choose or order rows whatever is in them.
_CHOOSES = frozenset({
    "index_select", "masked_select", "gather", "take", "flip", "roll", "narrow", "split", "chunk", "tensor_split",
    "repeat", "repeat_interleave", "tile",
})  # fmt: skip
_RESHAPES = frozenset({"view", "reshape", "flatten", "expand"})
_SORTS = frozenset({"sort", "topk", "msort"})
# Functions that make numbers of nothing but sizes, and those that keep numbers so.
_MAKES = frozenset({
    "arange", "randint", "randperm", "rand", "randn", "zeros", "ones", "randint_like", "rand_like", "zeros_like",
    "ones_like", "new_zeros", "new_ones",
})  # fmt: skip
_WRITES = frozenset({"__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__ior__", "__iand__"})
_KEEPS_MADE = _SAME_ROWS | {"cat", "concat", "stack", "repeat", "repeat_interleave", "flip", "roll", "argsort"}


class RowSource(NamedTuple):
    """A tensor of the step whose rows are known."""

    value: Tensor
    rows: Tensor
    """Which rows of the batch it holds."""
    is_choice: bool
    """Whether these may be others than all in order."""
    num_rows: int
    """How many rows the batch has there."""
    is_vector: bool
    """Whether the batch has one number for each row there, as labels are."""

    def choice(self, rows: Tensor) -> "RowSource":
        """Return the same of a tensor that holds these rows."""
        return self._replace(rows=rows, is_choice=True)


class RowTrace(TorchFunctionMode):
    """Follow the rows of the batch's vectors through a training step.

    It costs a little on every call of torch, and stays only for steps that choose or order rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, RowSource] = {}
        self._mixtures: dict[int, Tensor] = {}
        self._constants: dict[int, Tensor] = {}
        self._of_pairs: dict[int, Tensor] = {}
        self._stack = ExitStack()
        self._users: set[int] = set()
        self.chose_inputs = False
        """Whether the step chose or ordered rows of something that is no vector, as its inputs."""
        self._computed_with: list[tuple[RowSource, bool]] = []
        self._last_asked: dict[int, int] = {}
        self.inputs = InputUse()
        """What the step computes of what is no vector."""

    def start(self, user: Any, batch: Any) -> None:
        """A training step with this batch begins; the callbacks that ask share one trace of it."""
        self._users.add(id(user))
        if len(self._users) > 1:
            return
        self._forget()
        for _, part in parts(batch):
            if isinstance(part, Tensor) and part.ndim and not part.is_nested:
                rows = torch.arange(len(part), device=part.device)
                is_vector = part.numel() == len(part)
                self._know(part, RowSource(part, rows, is_choice=False, num_rows=len(part), is_vector=is_vector))
        self.inputs.begin([entry.value for entry in self._sources.values() if not entry.is_vector])
        if self._sources:
            self._stack.enter_context(self)

    @property
    def follows(self) -> bool:
        """Whether any tensor of the step is known."""
        return bool(self._sources)

    def stop(self) -> None:
        """The step has run, and what is computed now is no part of it; what is known stays until ``close``."""
        if self._sources:  # it is entered where something is known
            self._stack.close()

    def close(self, user: Any) -> None:
        """Its step has ended, for this callback."""
        self._users.discard(id(user))
        if self._sources and not self._users:
            self._stack.close()
            self._forget()

    def _forget(self) -> None:
        self.chose_inputs, self._computed_with, self._last_asked = False, [], {}
        self._sources, self._mixtures, self._constants, self._of_pairs = {}, {}, {}, {}
        self.inputs.begin([])

    def source_of(self, user: Any, value: Any) -> RowSource | None:
        """Return what is known of a layer's input: itself, or what layers computed with since this user asked last."""
        start = self._last_asked.get(id(user), 0)
        self._last_asked[id(user)] = len(self._computed_with)
        if (source := self._sources.get(id(value))) is not None:
            return source
        calls = self._computed_with[start:]
        sources = [source for source, has_gradients in calls if has_gradients] or [source for source, _ in calls]
        return sources[-1] if sources and _are_of_same_rows(sources) else None

    def of_layers(self) -> RowSource | None:
        """Return the inputs that layers computed with last, with gradients if any did; None if not known."""
        sources = [source for source, _ in self._computed_with]
        sources_with_gradients = [source for source, has_gradients in self._computed_with if has_gradients]
        return (sources_with_gradients or sources)[-1] if sources else None

    def rows_of(self, targets: Tensor) -> Tensor | None:
        """Return the rows of the batch that a tensor of the step holds, or None if all in order, or not known."""
        source = self.source(targets)
        return source.rows if source is not None and source.is_choice else None

    def mixes(self, targets: Tensor) -> bool:
        """Return whether each number of a tensor was made of several rows of the batch, or of any of them."""
        return any(entry is targets or _is_handle(entry, targets) for entry in self._mixtures.values())

    def makes(self, targets: Tensor) -> bool:
        """Return whether the step made a tensor of nothing but sizes and random numbers: it says nothing of samples."""
        return any(entry is targets or _is_handle(entry, targets) for entry in self._constants.values())

    def are_of_pairs(self, targets: Tensor) -> bool:
        """Return whether a tensor was made by comparing labels with one another: it tells which pairs are alike."""
        return any(entry is targets or _is_handle(entry, targets) for entry in self._of_pairs.values())

    def source(self, targets: Tensor) -> RowSource | None:
        """Return what is known of a tensor, or of one that it is another handle of, as autograd keeps it."""
        if not self._sources:
            return None
        entry = self._sources.get(id(targets))
        return entry or next((entry for entry in self._sources.values() if _is_handle(entry.value, targets)), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._note_made(getattr(func, "__name__", ""), args, result)
        with suppress(Exception):  # as below
            self.inputs.note(args, kwargs, result)
        if any(id(value) in self._sources for value in _operands(args)):
            with suppress(Exception):  # in the middle of the user's step: what cannot be followed is not known
                self._follow(getattr(func, "__name__", ""), func, args, kwargs, result)
        elif self._mixtures:
            self._keep_mixed(getattr(func, "__name__", ""), args, result)
        return result

    def _keep_mixed(self, name: str, args: Any, result: Any) -> None:
        """Note what is made of mixed rows alone, as their form in floating numbers."""
        is_mixed = name in _SAME_ROWS and any(id(value) in self._mixtures for value in _operands(args))
        if is_mixed and isinstance(result, Tensor):
            self._mixtures[id(result)] = result

    def _follow(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        entries = [self._sources.get(id(value)) for value in _operands(args)]
        first_entry = entries[0]
        source = next(entry for entry in entries if entry is not None)
        if name in _RESHAPES and first_entry is not None:
            self._reshape(first_entry, result)
        elif name in _SAME_ROWS:
            self._keep_rows(entries, source, result)
            self._note_pairs(source, args, result)
        elif name == "__getitem__":
            self._index(args, result)
        elif name in ("cat", "concat", "concatenate", "hstack") and all(entries):
            self._know(result, source.choice(torch.cat([entry.rows for entry in entries if entry])))
        elif first_entry is None or (source.value.ndim > 1 and not _along_rows(name, args, kwargs)):
            self._note_use(source, args, kwargs)
        elif name in _SORTS:
            self._know(result[0], source.choice(source.rows[result[1]]))
        elif name in _CHOOSES:
            self._choose(func, source, args, kwargs, result)

    def _note_made(self, name: str, args: Any, result: Any) -> None:
        """Note what is made of sizes alone; a tensor that is written to is made of something else."""
        if name in _MAKES and isinstance(result, Tensor):
            self._constants[id(result)] = result
        elif self._constants:
            tensors = [value for value in _operands(args) if isinstance(value, Tensor)]
            if tensors and isinstance(result, Tensor) and all(id(entry) in self._constants for entry in tensors):
                if name in _KEEPS_MADE:
                    self._constants[id(result)] = result
            elif tensors and (name in _WRITES or (name.endswith("_") and not name.endswith("__"))):
                self._constants.pop(id(tensors[0]), None)

    def _note_use(self, source: RowSource, args: Any, kwargs: Any) -> None:
        """Note what a layer computes with: a function of inputs and parameters."""
        if not source.is_vector and any(isinstance(value, nn.Parameter) for value in (*args, *kwargs.values())):
            self._computed_with.append((source, torch.is_grad_enabled()))

    def _keep_rows(self, entries: list[RowSource | None], source: RowSource, result: Any) -> None:
        if isinstance(result, Tensor) and _are_of_same_rows(entries):
            self._know(result, source)
        elif isinstance(result, Tensor):
            self._mixtures[id(result)] = result

    def _note_pairs(self, source: RowSource, args: Any, result: Any) -> None:
        """Note what is made of a column of labels and the same ones as a row."""
        tensors = [value for value in _operands(args) if isinstance(value, Tensor)]
        memory = {entry.untyped_storage().data_ptr() for entry in tensors}
        compares = source.is_vector and len({entry.shape for entry in tensors}) == 2 and len(memory) == 1
        if isinstance(result, Tensor) and (compares or any(id(entry) in self._of_pairs for entry in tensors)):
            self._of_pairs[id(result)] = result

    def _reshape(self, source: RowSource, result: Tensor) -> None:
        """Note rows that stay the first axis, and those of crops (N, V, ...) that are now (N V, ...), side by side."""
        value = source.value
        if result.numel() == value.numel() or result.ndim == value.ndim:  # else `expand` has put an axis before them
            self._know(result, source)
        if value.ndim < 2 or not (source.is_vector or value.is_floating_point()):
            return
        if result.shape == (value.shape[0] * value.shape[1], *value.shape[2:]) and value.shape[1] > 1:
            self._know(result, source.choice(source.rows.repeat_interleave(value.shape[1])))

    def _choose(self, func: Callable[..., Any], source: RowSource, args: Any, kwargs: Any, result: Any) -> None:
        mask = kwargs.get("mask", args[1] if len(args) > 1 else None)
        rows = source.rows
        choice = _rows_of_mask(rows, mask, len(result)) if _is_mask(mask) else func(rows, *args[1:], **kwargs)
        has_parts = isinstance(result, tuple | list)
        for part, part_rows in zip(result, choice, strict=True) if has_parts else [(result, choice)]:
            self._know(part, source.choice(part_rows))

    def _index(self, args: Any, result: Any) -> None:
        values, key = args
        source = self._sources.get(id(values))
        if source is not None:
            key = key[0] if isinstance(key, tuple) else key
            takes_all = key is Ellipsis or (isinstance(key, slice) and key == slice(None))
            rows = _rows_of_mask(source.rows, key, len(result)) if _is_mask(key) else source.rows[key]
            self._know(result, source if takes_all else source.choice(rows))
        else:  # a table of classes, looked up by label
            of_key = self._sources.get(id(key))
            if of_key is not None and key.dtype not in (torch.bool, torch.uint8):
                self._know(result, of_key)

    def _know(self, value: Tensor, source: RowSource) -> None:
        is_single = value.ndim == 0 and len(source.rows) == 1  # a row that was squeezed
        if is_single or value.shape[:1] == source.rows.shape:
            self.chose_inputs |= source.is_choice and not source.is_vector
            # The tensor too, as its id is another's once it is gone.
            self._sources[id(value)] = source._replace(value=value)


def _are_of_same_rows(entries: Sequence[RowSource | None]) -> bool:
    """Whether the operands of a function of one number for each row hold the same rows; it waits for no device."""
    first_entry, *other_entries = [entry for entry in entries if entry is not None]
    return all(entry.rows is first_entry.rows or _agree(entry, first_entry) for entry in other_entries)


def _agree(a: RowSource, b: RowSource) -> bool:
    if a.rows.shape != b.rows.shape or a.rows.device.type != "cpu":
        return a.is_choice == b.is_choice
    return torch.equal(a.rows, b.rows)


def _is_handle(a: Tensor, b: Tensor) -> bool:
    is_same = a.shape == b.shape and a.dtype == b.dtype and a.layout == b.layout == torch.strided
    return is_same and a.numel() > 0 and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()


def _is_mask(key: Any) -> bool:
    return isinstance(key, Tensor) and key.ndim == 1 and key.dtype in (torch.bool, torch.uint8)


def _rows_of_mask(rows: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return the ``count`` rows where a mask is true. To count them here, the CPU would wait for the device."""
    return rows[mask.bool().argsort(descending=True, stable=True)[:count]]


def _along_rows(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a function of images or the like chooses or orders rows, not what is in them."""
    if name in ("split", "chunk", "tensor_split"):
        return bool(kwargs.get("dim", args[2] if len(args) > 2 else 0) == 0)
    if name == "repeat_interleave":
        return bool(kwargs.get("dim", args[2] if len(args) > 2 else None) == 0)
    dimension = kwargs.get("dim", kwargs.get("dims", args[1] if len(args) > 1 else None))
    return name in ("flip", "index_select", "narrow") and dimension in (0, (0,), [0])


TRACE = RowTrace()


def _operands(args: Any) -> Iterator[Any]:
    for value in args:
        if isinstance(value, tuple | list):
            yield from value
        else:
            yield value
