"""Where the pictures of a run go, how they show inputs and classes, and what happens if one fails."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dynalens.datasets import class_names, network_class_names
from dynalens.host import picture_loggers, tensorboard_writer
from dynalens.notices import warn
from dynalens.pictures import Normalisation, find_normalisation
from dynalens.tensorboard import Sink, make_sink
from dynalens.text import error_in_words


def sink_of(trainer: Any, folder: Path) -> Sink:
    """Return where a callback's pictures go: to the Trainer's loggers, or without one to files in the folder."""
    return make_sink(tensorboard_writer(trainer), picture_loggers(trainer), folder / "pictures")


class Shows(Protocol):
    """Pictures of inputs and classes."""

    names: Sequence[str] | None
    normalisation: Normalisation | None


def show_as_trained(pictures: Shows, trainer: Any, pl_module: Any) -> None:
    """Let pictures name the classes of the training dataset or the network and undo the normalisation of its inputs."""
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    pictures.names = class_names(dataset) or network_class_names(pl_module)
    pictures.normalisation = find_normalisation(pl_module, getattr(trainer, "datamodule", None), dataset)


@contextmanager
def switched_off_on_error(part: str, switch_off: Callable[[], None], on_error: str = "warn") -> Iterator[None]:
    """If the body fails, switch a part of a monitor off and say so, or raise if ``on_error`` is "raise"."""
    try:
        yield
    except Exception as error:
        switch_off()
        if on_error == "raise":
            raise
        warn(f"{part} are switched off, training goes on: {error_in_words(error)}")
