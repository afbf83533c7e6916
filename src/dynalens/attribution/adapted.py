"""What a method of another library takes as arguments."""

import inspect
from collections.abc import Callable, Sequence

from torch import Tensor

_OF_ALL_METHODS = ("model", "images", "targets", "forward", "chunk_size")


def with_arguments(
    run: Callable[..., Tensor], names: Sequence[str], *, required: Sequence[str] = (), takes_any: bool = False
) -> Callable[..., Tensor]:
    """Return the function of a method, after noting on it what ``check_methods`` reads.

    Args:
        run: The function. Its own signature ends in ``**arguments``, which names none of them.
        names: Its arguments, besides those that every method has.
        required: Those of them that ``method_args`` must have.
        takes_any: Whether the library may take further ones.
    """
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*_OF_ALL_METHODS, *names)]
    if takes_any:
        parameters.append(inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD))
    vars(run).update(required=tuple(required), __signature__=inspect.Signature(parameters))
    return run
