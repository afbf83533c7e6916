"""scikit-learn where it is asked for."""

import importlib
from typing import Any

from dynalens.arguments import installed


def scikit_learn(module: str) -> Any:
    """Return a module of scikit-learn.

    Raises:
        ValueError: If it is not installed.
    """
    with installed("scikit-learn", "a surrogate", "scikit-learn"):
        return importlib.import_module(f"sklearn.{module}")
