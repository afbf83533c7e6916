"""The names of all attacks and corruptions, and checks of what they need."""

import importlib.util
from collections.abc import Sequence

from torch import Tensor

from dynalens.arguments import checked_names
from dynalens.observation import is_tokens
from dynalens.robustness.attacks import ATTACKS
from dynalens.robustness.corruptions import CORRUPTIONS

CHECKS = (*ATTACKS, *CORRUPTIONS)


def check_robustness(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        ValueError: If one is unknown, or Captum is not installed and one is an attack.

    Example:
        >>> check_robustness("contrast")
        ('contrast',)
    """
    check_list = checked_names("robustness", names, CHECKS)
    if set(check_list) & set(ATTACKS) and importlib.util.find_spec("captum") is None:
        raise ValueError(
            f"Expected Captum to be installed for {', '.join(ATTACKS)}, got no such package. Install it: "
            "`pip install captum`, or name corruptions only."
        )
    return check_list


def check_robust_inputs(inputs: Tensor, names: Sequence[str]) -> None:
    """Raise a ValueError if one of these attacks and corruptions is not defined for such inputs.

    Args:
        inputs: Inputs as the model takes them.
        names: Names from ``CHECKS``.
    """
    if names and is_tokens(inputs):
        raise ValueError(
            f"Expected `robustness` to be empty for tokens, {tuple(inputs.shape)}, {inputs.dtype}, got "
            f"{', '.join(names)}. Tokens cannot be changed by small steps: pass `robustness=()`."
        )
    if "blur" in names and inputs.ndim == 2:
        raise ValueError(
            f"Expected `robustness` without 'blur' for rows of a table, {tuple(inputs.shape)}, got a list with it. "
            "Columns have no neighbours: name other corruptions."
        )
