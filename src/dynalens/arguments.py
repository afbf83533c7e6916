"""What arguments must be, each refusal worded in one place."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def check_positive(**arguments: int | None) -> None:
    """Raise a ValueError that names the first argument below 1; None is none.

    Example:
        >>> check_positive(steps=2, views=0)
        Traceback (most recent call last):
        ValueError: Expected `views` to be at least 1, got 0. Pass a positive number.
    """
    for argument, value in arguments.items():
        if value is not None and value < 1:
            raise ValueError(f"Expected `{argument}` to be at least 1, got {value}. Pass a positive number.")


def check_any(images: Any) -> None:
    """Raise a ValueError if a batch of images is empty.

    Example:
        >>> import torch
        >>> check_any(torch.zeros(0, 3, 8, 8))
        Traceback (most recent call last):
        ValueError: Expected `images` to hold at least one image, got shape (0, 3, 8, 8). Leave empty batches out.
    """
    if not len(images):
        raise ValueError(
            f"Expected `images` to hold at least one image, got shape {tuple(images.shape)}. Leave empty batches out."
        )


def check_overhead(max_overhead: float | None) -> None:
    """Raise a ValueError unless a largest fraction of the training time is above 0; None is no limit.

    Example:
        >>> check_overhead(0.0)
        Traceback (most recent call last):
        ValueError: Expected `max_overhead` to be above 0 or None, got 0.0. Pass for instance 0.1.
    """
    if max_overhead is not None and not max_overhead > 0:
        raise ValueError(f"Expected `max_overhead` to be above 0 or None, got {max_overhead}. Pass for instance 0.1.")


def check_choice(argument: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError if an argument is none of some words.

    Example:
        >>> check_choice("target", "labels", ("label", "prediction"))
        Traceback (most recent call last):
        ValueError: Expected `target` to be 'label' or 'prediction', got 'labels'. Choose one of them.
    """
    if value not in choices:
        options = " or ".join(map(repr, choices)) if len(choices) == 2 else f"one of {', '.join(choices)}"
        raise ValueError(f"Expected `{argument}` to be {options}, got {value!r}. Choose one of them.")


def check_x_axis(x_axis: str) -> str:
    """Return what the horizontal axis of charts counts, or raise a ValueError if it is neither steps nor epochs.

    Example:
        >>> check_x_axis("epoch")
        'epoch'
    """
    check_choice("x_axis", x_axis, ("step", "epoch"))
    return x_axis


def checked_names(argument: str, names: Sequence[str] | str, choices: Sequence[str]) -> tuple[str, ...]:
    """Return names, of which one may stand alone, as a tuple; raise a ValueError if one is unknown.

    Example:
        >>> checked_names("metrics", "deletion", ("deletion", "insertion"))
        ('deletion',)
    """
    name_tuple = (names,) if isinstance(names, str) else tuple(names)
    unknown_names = [name for name in name_tuple if name not in choices]
    if unknown_names:
        raise ValueError(
            f"Expected `{argument}` to be among {', '.join(choices)}, got {', '.join(map(str, unknown_names))}. "
            "Choose from these names."
        )
    return name_tuple


@contextmanager
def installed(packages: str, purpose: str, install: str) -> Iterator[None]:
    """Raise a ValueError that says what to install, in place of an ImportError.

    Example:
        >>> with installed("Captum", "LIME", "captum"):
        ...     import none_such
        Traceback (most recent call last):
        ValueError: Expected Captum to be installed for LIME, got no such package. Install it: `pip install captum`.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"Expected {packages} to be installed for {purpose}, got no such package. Install it: `pip install "
            f"{install}`."
        ) from error
