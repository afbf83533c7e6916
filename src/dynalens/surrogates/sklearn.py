"""scikit-learn where it is asked for."""

import importlib
from typing import Any


def scikit_learn(module: str) -> Any:
    """Return a module of scikit-learn.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ValueError(
            "Expected scikit-learn to be installed for a surrogate, got none. Install it: `pip install scikit-learn`."
        ) from error
