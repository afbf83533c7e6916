"""The arguments of methods that another library computes."""

import inspect
from collections.abc import Callable, Sequence

from torch import Tensor

_OF_ALL_METHODS = ("model", "images", "targets", "forward", "chunk_size")


def with_arguments(
    run: Callable[..., Tensor], names: Sequence[str], *, required: Sequence[str] = (), takes_any: bool = False
) -> Callable[..., Tensor]:
    """Return the function of a method with a signature that names its arguments, for ``check_methods`` to read.

    Args:
        run: The function. It takes ``**arguments``, so its own signature does not name them. It is changed in place.
        names: Names of its arguments, without those that every method has.
        required: The names that ``method_args`` must have.
        takes_any: Whether it also takes arguments that are not named here.
    """
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*_OF_ALL_METHODS, *names)]
    if takes_any:
        parameters.append(inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD))
    vars(run).update(required=tuple(required), __signature__=inspect.Signature(parameters))
    return run
