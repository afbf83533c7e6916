"""Which rows of the batch the targets of a loss are, followed through what the step does to the batch's labels."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dynalens.identity.columns import parts

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
_SORTS = frozenset({"sort", "topk", "msort"})


class RowTrace(TorchFunctionMode):
    """Follow the rows of the batch's vectors through a training step.

    It costs a little on every call of torch, and stays only for steps that choose or order rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, Tensor, bool]] = {}
        self._entered = ExitStack()
        self._users: set[int] = set()
        self.chose_inputs = False
        """Whether the step chose or ordered rows of something that is no vector, as its inputs."""

    def start(self, user: Any, batch: Any) -> None:
        """A training step with this batch begins; the callbacks that ask share one trace of it."""
        self._users.add(id(user))
        if len(self._users) > 1:
            return
        self.chose_inputs, self._known = False, {}
        for _, part in parts(batch):
            if isinstance(part, Tensor) and part.ndim and not part.is_nested:
                self._know(part, torch.arange(len(part), device=part.device), is_choice=False)
        if self._known:
            self._entered.enter_context(self)

    def close(self, user: Any) -> None:
        """Its step has ended, for this callback."""
        self._users.discard(id(user))
        if not self._users:
            self._entered.close()
            self._known = {}

    def rows_of(self, targets: Tensor) -> Tensor | None:
        """Return the rows of the batch that a tensor of the step holds, or None if all in order, or not known."""
        _, rows, is_choice = self._known.get(id(targets), (targets, targets, False))
        return rows if is_choice else None

    def knows(self, targets: Tensor) -> bool:
        """Return whether a tensor of the step was made of a vector of the batch."""
        return id(targets) in self._known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(id(value) in self._known for value in _operands(args)):
            with suppress(Exception):  # in the middle of the user's step: what cannot be followed is not known
                self._follow(getattr(func, "__name__", ""), func, args, kwargs, result)
        return result

    def _follow(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        entries = [self._known.get(id(value)) for value in _operands(args)]
        first = entries[0]
        source, rows, is_choice = next(each for each in entries if each is not None)
        if name in _SAME_ROWS:
            if isinstance(result, Tensor) and result.shape[:1] == rows.shape:
                self._know(result, rows, is_choice=is_choice)
        elif name == "__getitem__":
            self._index(args, result)
        elif name in ("cat", "concat", "concatenate", "hstack") and all(entries):
            self._know(result, torch.cat([each[1] for each in entries if each]), is_choice=True)
        elif first is None or (source.ndim > 1 and not _along_rows(name, args, kwargs)):
            return
        elif name in _SORTS:
            self._know(result[0], rows[result[1]], is_choice=True)
        elif name in _CHOOSES:
            self._choose(func, rows, args, kwargs, result)

    def _choose(self, func: Callable[..., Any], rows: Tensor, args: Any, kwargs: Any, result: Any) -> None:
        choice = func(rows, *args[1:], **kwargs)
        several = isinstance(result, tuple | list)
        for part, part_rows in zip(result, choice, strict=True) if several else [(result, choice)]:
            self._know(part, part_rows, is_choice=True)

    def _index(self, args: Any, result: Any) -> None:
        values, key = args
        of_rows = self._known.get(id(values))
        if of_rows is not None:
            key = key[0] if isinstance(key, tuple) else key
            every = key is Ellipsis or (isinstance(key, slice) and key == slice(None))
            self._know(result, of_rows[1][key], is_choice=of_rows[2] or not every)
        else:  # a table of classes, looked up by label
            of_key = self._known.get(id(key))
            if of_key is not None and key.dtype not in (torch.bool, torch.uint8):
                self._know(result, of_key[1], is_choice=of_key[2])

    def _know(self, value: Tensor, rows: Tensor, *, is_choice: bool) -> None:
        if value.shape[:1] == rows.shape:
            self.chose_inputs |= is_choice and value.ndim > 1
            self._known[id(value)] = value, rows, is_choice  # the tensor too, as its id is another's once it is gone


def _along_rows(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a function of images or the like chooses or orders rows, not what is in them."""
    dimension = kwargs.get("dim", kwargs.get("dims", args[1] if len(args) > 1 else None))
    return name in ("flip", "index_select", "narrow") and dimension in (0, (0,), [0])


TRACE = RowTrace()


def _operands(args: Any) -> Iterator[Any]:
    for value in args:
        if isinstance(value, tuple | list):
            yield from value
        else:
            yield value
