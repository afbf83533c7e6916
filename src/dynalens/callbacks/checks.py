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


def check_projector(every_n_epochs: int | None, features: str | None) -> None:
    """Raise a ValueError if there is nothing for the projector to show."""
    if every_n_epochs is None:
        return
    check_positive(projector_every_n_epochs=every_n_epochs)
    if features is None:
        raise ValueError(
            "Expected `features` to name a layer with `projector_every_n_epochs`, got None. Pass the dotted name "
            "of the layer before the last linear one."
        )
