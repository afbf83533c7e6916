"""Which rows of the batch the targets of a loss are, traced through what the step does to the batch's labels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynalens.identity.columns import parts
from dynalens.identity.inputs import InputUse, operands

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
_AXIS: dict[str, tuple[int, int | None]] = {
    "flip": (1, None), "index_select": (1, None), "narrow": (1, None), "roll": (2, None),
    "repeat_interleave": (2, None), "split": (2, 0), "chunk": (2, 0), "tensor_split": (2, 0),
}  # fmt: skip
"""Place of the axis among the arguments of those of these functions that may take rows of images, and its default."""
_RESHAPES = frozenset({"view", "reshape", "flatten", "expand"})
_SORTS = frozenset({"sort", "topk", "msort"})
# Functions that make numbers of nothing but sizes, and those that keep numbers so.
_MAKES = frozenset({
    "arange", "randint", "randperm", "rand", "randn", "zeros", "ones", "randint_like", "rand_like", "zeros_like",
    "ones_like", "new_zeros", "new_ones", "empty", "empty_like", "new_empty", "linspace",
    "random_", "uniform_", "normal_",
})  # fmt: skip
_WRITES = frozenset({"__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__ior__", "__iand__"})
_KEEPS_MADE = _SAME_ROWS | {
    "cat", "concat", "stack", "repeat", "repeat_interleave", "flip", "roll", "argsort", "multinomial",
}  # fmt: skip


class RowSource(NamedTuple):
    """A tensor of the step, and the rows of the batch that it holds."""

    value: Tensor
    rows: Tensor
    """Shape ``(M,)``, the row of the batch that each row of the tensor is."""
    is_choice: bool
    """Whether the rows may differ from all rows in order."""
    num_rows: int
    """Number of rows of the batch's tensor that it was made from."""
    is_vector: bool
    """Whether that tensor has one number per row, as labels have."""
    entry: int
    """Identity of that tensor."""

    def choice(self, rows: Tensor) -> "RowSource":
        """Return the source of a tensor that holds these rows instead."""
        return self._replace(rows=rows, is_choice=True)


class RowTrace(TorchFunctionMode):
    """A mode of torch's functions that follows the rows of the batch through a training step.

    It costs a little in every call of torch, so it is used only in the first steps, and in steps that select or reorder
    rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, RowSource] = {}
        self._mixtures: dict[int, Tensor] = {}
        self._constants: dict[int, Tensor] = {}
        self._of_pairs: dict[int, Tensor] = {}
        self._stack = ExitStack()
        self._users: set[int] = set()
        self._chosen: set[int] = set()
        self._computed_with: list[tuple[RowSource, bool]] = []
        self._last_asked: dict[int, int] = {}
        self.inputs = InputUse()
        """What the step computes from tensors that are no vectors."""

    def start(self, user: Any, batch: Any) -> None:
        """A training step with this batch begins. Callbacks of the same step share one trace."""
        self._users.add(id(user))
        if len(self._users) > 1:
            return
        self._forget()
        for path, part in parts(batch):
            # One number of a list, as a detector has a list of labels, may be that of any row.
            is_entry = len(path) > 1 and any(type(key) is int for key in path)
            if isinstance(part, Tensor) and part.ndim and not part.is_nested and not (is_entry and part.numel() == 1):
                n, rows = len(part), torch.arange(len(part), device=part.device)
                is_vector = part.numel() == n
                source = RowSource(part, rows, is_choice=False, num_rows=n, is_vector=is_vector, entry=id(part))
                self._know(part, source)
        self.inputs.begin([entry.value for entry in self._sources.values() if not entry.is_vector])
        if self._sources:
            self._stack.enter_context(self)

    @property
    def follows(self) -> bool:
        """Whether the rows of any tensor are known."""
        return bool(self._sources)

    def stop(self) -> None:
        """The step has run. What is known is kept until ``close``, and nothing more is traced."""
        if self._sources:  # it is entered where something is known
            self._stack.close()

    def close(self, user: Any) -> None:
        """The step has ended for this callback."""
        self._users.discard(id(user))
        if self._sources and not self._users:
            self._stack.close()
            self._forget()

    def _forget(self) -> None:
        self._chosen, self._computed_with, self._last_asked = set(), [], {}
        self._sources, self._mixtures, self._constants, self._of_pairs = {}, {}, {}, {}
        self.inputs.begin([])

    @property
    def chose_inputs(self) -> bool:
        """Whether the step selected or reordered rows of a tensor that is no vector, such as its inputs."""
        return bool(self._chosen)

    def chose_inputs_of(self, targets: RowSource) -> bool:
        """Return whether the step may have selected or reordered rows of its inputs as it did those of its targets.

        Targets with several numbers for each row are no vector either. Where their tensor is the only one of which rows
        were chosen, the inputs of layers tell, if they are known.
        """
        inputs = self.of_layers()
        return bool(self._chosen - {targets.entry}) or (self.chose_inputs and (inputs is None or inputs.is_choice))

    def source_of(self, user: Any, value: Any) -> RowSource | None:
        """Return what is known of a layer's input, or of what layers computed with since this callback asked last."""
        start = self._last_asked.get(id(user), 0)
        self._last_asked[id(user)] = len(self._computed_with)
        if (source := self._sources.get(id(value))) is not None:
            return source
        calls = self._computed_with[start:]
        sources = [source for source, has_gradients in calls if has_gradients] or [source for source, _ in calls]
        return sources[-1] if sources and _are_of_same_rows(sources) else None

    def of_layers(self) -> RowSource | None:
        """Return the newest inputs of layers, those with gradients if there are any; None if they are not known."""
        sources = [source for source, _ in self._computed_with]
        sources_with_gradients = [source for source, has_gradients in self._computed_with if has_gradients]
        return (sources_with_gradients or sources)[-1] if sources else None

    def rows_of(self, targets: Tensor) -> Tensor | None:
        """Return the rows of the batch that a tensor holds; None if all in order, or not known."""
        source = self.source(targets)
        return source.rows if source is not None and source.is_choice else None

    def mixes(self, targets: Tensor) -> bool:
        """Return whether each value of a tensor may come from several rows of the batch."""
        return _hold(self._mixtures, targets)

    def makes(self, targets: Tensor) -> bool:
        """Return whether a tensor was made from sizes and random numbers alone, and says nothing about samples."""
        return _hold(self._constants, targets)

    def are_of_pairs(self, targets: Tensor) -> bool:
        """Return whether a tensor says which pairs of labels are equal.

        It was made by comparing labels with each other.
        """
        return _hold(self._of_pairs, targets)

    def source(self, targets: Tensor) -> RowSource | None:
        """Return what is known of a tensor, or of a tensor with the same memory: autograd keeps its own handles."""
        if not self._sources:
            return None
        entry = self._sources.get(id(targets))
        return entry or next((entry for entry in self._sources.values() if _is_handle(entry.value, targets)), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__" and not isinstance(result, Tensor):
            return result  # as of shape and dtype, which are asked most
        self._note_made(getattr(func, "__name__", ""), args, result)
        with suppress(Exception):  # as below
            self.inputs.note(args, kwargs, result)
        if any(id(value) in self._sources for value in operands(args)):
            with suppress(Exception):  # in the middle of the user's step: what cannot be followed is not known
                self._follow(getattr(func, "__name__", ""), func, args, kwargs, result)
        elif self._mixtures:
            self._keep_mixed(getattr(func, "__name__", ""), args, result)
        return result

    def _keep_mixed(self, name: str, args: Any, result: Any) -> None:
        """Note the results of functions on mixed rows, such as a conversion to floating numbers."""
        is_mixed = name in _SAME_ROWS and any(id(value) in self._mixtures for value in operands(args))
        if is_mixed and isinstance(result, Tensor):
            self._mixtures[id(result)] = result

    def _follow(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        entries = [self._sources.get(id(value)) for value in operands(args)]
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
        """Note tensors that are made from sizes and random numbers alone, and forget those that are written to."""
        if name in _MAKES and isinstance(result, Tensor):
            self._constants[id(result)] = result
        elif self._constants:
            tensors = [value for value in operands(args) if isinstance(value, Tensor)]
            if tensors and isinstance(result, Tensor) and all(id(entry) in self._constants for entry in tensors):
                if name in _KEEPS_MADE:
                    self._constants[id(result)] = result
            elif tensors and (name in _WRITES or (name.endswith("_") and not name.endswith("__"))):
                self._constants.pop(id(tensors[0]), None)

    def _note_use(self, source: RowSource, args: Any, kwargs: Any) -> None:
        """Note the inputs of layers: what is computed together with parameters."""
        if not source.is_vector and any(isinstance(value, nn.Parameter) for value in (*args, *kwargs.values())):
            self._computed_with.append((source, torch.is_grad_enabled()))

    def _keep_rows(self, entries: list[RowSource | None], source: RowSource, result: Any) -> None:
        if isinstance(result, Tensor) and _are_of_same_rows(entries):
            self._know(result, source)
        elif isinstance(result, Tensor):
            self._mixtures[id(result)] = result

    def _note_pairs(self, source: RowSource, args: Any, result: Any) -> None:
        """Note what is made from labels as a column together with the same labels as a row."""
        tensors = [value for value in operands(args) if isinstance(value, Tensor)]
        memory = {entry.untyped_storage().data_ptr() for entry in tensors}
        compares = source.is_vector and len({entry.shape for entry in tensors}) == 2 and len(memory) == 1
        if isinstance(result, Tensor) and (compares or any(id(entry) in self._of_pairs for entry in tensors)):
            self._of_pairs[id(result)] = result

    def _reshape(self, source: RowSource, result: Tensor) -> None:
        """Note rows of a reshaped tensor.

        They stay the first axis, or they are crops (N, V, ...) that became (N V, ...), side by side.
        """
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
            if source.is_choice and not source.is_vector:
                self._chosen.add(source.entry)
            # The tensor too, as its id is another's once it is gone.
            self._sources[id(value)] = source._replace(value=value)


def _are_of_same_rows(entries: Sequence[RowSource | None]) -> bool:
    """Return whether the operands of an elementwise function hold the same rows. Does not wait for the device."""
    first_entry, *other_entries = [entry for entry in entries if entry is not None]
    return all(entry.rows is first_entry.rows or _agree(entry, first_entry) for entry in other_entries)


def _agree(a: RowSource, b: RowSource) -> bool:
    if a.rows.shape != b.rows.shape or a.rows.device.type != "cpu":
        return a.is_choice == b.is_choice
    return torch.equal(a.rows, b.rows)


def _hold(tensors: Mapping[int, Tensor], targets: Tensor) -> bool:
    return bool(tensors) and any(tensor is targets or _is_handle(tensor, targets) for tensor in tensors.values())


def _is_handle(a: Tensor, b: Tensor) -> bool:
    is_same = a.shape == b.shape and a.dtype == b.dtype and a.layout == b.layout == torch.strided
    return is_same and a.numel() > 0 and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()


def _is_mask(key: Any) -> bool:
    return isinstance(key, Tensor) and key.ndim == 1 and key.dtype in (torch.bool, torch.uint8)


def _rows_of_mask(rows: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return the ``count`` rows at which a mask is true.

    The CPU would have to wait for the device to count them itself.
    """
    return rows[mask.bool().argsort(descending=True, stable=True)[:count]]


def _along_rows(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a function of images or the like selects or reorders rows, and not values within them."""
    if name not in _AXIS:
        return False
    place, default = _AXIS[name]
    axis = kwargs.get("dim", kwargs.get("dims", args[place] if len(args) > place else default))
    return axis in (0, (0,), [0])


TRACE = RowTrace()
