"""Functions of torch, replaced for a while: ReLUs with another backward pass, and attention that shows its weights.

A ``TorchFunctionMode`` sees each call of a function of torch. So it does not matter whether a model uses a module or a
function, in place or not.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ReluRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(gradient at the output of a ReLU, whether each unit is active, output) -> gradient at its input."""

_RELUS = (F.relu, torch.relu, Tensor.relu)
_RELUS_IN_PLACE = (torch.relu_, Tensor.relu_)
_JOINING = frozenset(
    {"add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "matmul", "bmm", "einsum"}
    | {"scaled_dot_product_attention", "multi_head_attention_forward"}
)
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@contextmanager
def modified_relu(rule: ReluRule) -> Iterator[list[int]]:
    """Give every ReLU and ReLU6 that is called in the body of the ``with`` this backward pass.

    Yields a list that gets one entry for each call.

    Example:
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> with modified_relu(lambda gradient, active, output: -gradient) as calls:
        ...     y = torch.relu(x)
        >>> torch.autograd.grad(y.sum(), [x])[0], len(calls)
        (tensor([-1., -1.]), 1)
    """
    calls: list[int] = []

    def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        relu_call = _relu_call(func, args, kwargs)
        if relu_call is None:
            return func(*args, **kwargs)
        calls.append(1)
        return _Rectified.apply(*relu_call, rule)  # type: ignore[no-untyped-call, unused-ignore]  # in some torch releases

    with _Replaced(call):
        yield calls


@contextmanager
def captured_attention() -> Iterator[list[Tensor]]:
    """Yield a list that gets the weights of each attention in the body of the ``with``: (..., T, S), with their graph.

    Two kinds of calls count as attention: ``scaled_dot_product_attention``, which is replaced by its formula so that
    the weights exist, and a softmax over the last dimension of three or four. The modules of torch, timm and
    transformers call one or the other.
    """
    attention: list[Tensor] = []

    def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is F.scaled_dot_product_attention:
            weights, value = _attention(*args, **kwargs)
            attention.append(weights)
            return weights @ value
        if func is F.multi_head_attention_forward:
            result, by_head = _module_attention(args, kwargs)
            # Of a view, the output depends on the base alone.
            attention.append(by_head if by_head._base is None else by_head._base)
            return result
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim in (3, 4):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, result.ndim - 1):
                attention.append(result)
        return result

    with _Replaced(call):
        yield attention


@contextmanager
def captured_joins() -> Iterator[list[str]]:
    """Yield a list that gets the names of functions that join two computed tensors, such as sums and products.

    Example:
        >>> x = torch.ones(1, requires_grad=True) * 2
        >>> with captured_joins() as names:
        ...     y = x + 1
        ...     z = x + y
        >>> names
        ['add']
    """
    names: list[str] = []

    def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        if name in _JOINING and sum(isinstance(arg, Tensor) and arg.grad_fn is not None for arg in args) > 1:
            names.append(name)
        return func(*args, **kwargs)

    with _Replaced(call):
        yield names


class _Replaced(TorchFunctionMode):
    """Calls ``call(function, args, kwargs)`` in place of each function of torch."""

    def __init__(self, call: Callable[[Any, Any, dict[str, Any]], Any]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._call(func, args, kwargs or {})


class _Rectified(torch.autograd.Function):
    """clamp(x, 0, top) with a given backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, in_place: bool, rule: ReluRule) -> Tensor:
        ctx.rule = rule
        is_active = (x > 0) & (x < top)
        output = x.clamp_(0, top) if in_place else x.clamp(0, top)
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(is_active, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        is_active, output = ctx.saved_tensors
        return ctx.rule(gradients[0], is_active, output), None, None, None


def _relu_call(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Tensor, float, bool] | None:
    """Return the input of a ReLU, its largest output and whether it works in place; None for other functions."""
    x: Tensor = args[0] if args else kwargs["input"]
    if func in _RELUS or func in _RELUS_IN_PLACE or func is F.relu6:
        in_place = func in _RELUS_IN_PLACE or bool(kwargs.get("inplace", args[1] if len(args) > 1 else False))
        return x, 6.0 if func is F.relu6 else math.inf, in_place
    if func in (F.hardtanh, F.hardtanh_):  # what the module ReLU6 calls
        low, high, in_place = (
            kwargs.get(name, args[place] if len(args) > place else default)
            for place, name, default in ((1, "min_val", -1.0), (2, "max_val", 1.0), (3, "inplace", False))
        )
        return (x, float(high), bool(in_place) or func is F.hardtanh_) if low == 0 else None
    return None


def _module_attention(args: Any, kwargs: dict[str, Any]) -> tuple[Any, Tensor]:
    """Return the result for ``nn.MultiheadAttention``, and the weights of each head.

    A mode does not see the calls within this function of torch, so it must return the weights itself.
    """
    options = {"need_weights": True, "average_attn_weights": False}
    output, by_head = F.multi_head_attention_forward(*args, **{**kwargs, **options})
    assert by_head is not None
    if not kwargs.get("need_weights", True):
        return (output, None), by_head
    return (output, by_head.mean(dim=-3) if kwargs.get("average_attn_weights", True) else by_head), by_head


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return softmax(q k' / sqrt(d) + mask) and the values: the arguments are those of torch's function."""
    if enable_gqa:  # several query heads share one head of keys and values
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, dim=-3), value.repeat_interleave(groups, dim=-3)
    similarity = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(similarity.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        similarity = similarity.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        similarity = similarity + attn_mask
    return F.dropout(similarity.softmax(dim=-1), dropout_p), value
