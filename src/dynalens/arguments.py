"""What arguments must be, each refusal worded in one place."""

from collections.abc import Sequence


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


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError if an argument is neither of two words.

    Example:
        >>> check_choice("target", "labels", ("label", "prediction"))
        Traceback (most recent call last):
        ValueError: Expected `target` to be 'label' or 'prediction', got 'labels'. Choose one of them.
    """
    if value not in choices:
        raise ValueError(
            f"Expected `{argument}` to be '{choices[0]}' or '{choices[1]}', got {value!r}. Choose one of them."
        )
