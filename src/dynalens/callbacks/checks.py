"""What the arguments of several callbacks must be."""


def check_positive(**arguments: int) -> None:
    """Raise a ValueError that names the first argument below 1."""
    for argument, value in arguments.items():
        if value < 1:
            raise ValueError(f"Expected `{argument}` to be at least 1, got {value}. Pass a positive number.")


def check_choice(argument: str, value: str, choices: tuple[str, str]) -> None:
    """Raise a ValueError if an argument is neither of two words."""
    if value not in choices:
        raise ValueError(
            f"Expected `{argument}` to be '{choices[0]}' or '{choices[1]}', got {value!r}. Choose one of them."
        )
