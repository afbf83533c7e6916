"""The checkpoints of a run, as Lightning's ``ModelCheckpoint`` writes them: weights, step and learning rate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Checkpoints = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Checkpoint:
    """What one file says of a training.

    Attributes:
        path: The file.
        weights: The module's ``state_dict``, on the CPU.
        step: Optimizer steps until then.
        learning_rate: Of the next step.
    """

    path: Path
    weights: Mapping[str, Tensor]
    step: int
    learning_rate: float


def checkpoint_files(checkpoints: Checkpoints) -> list[Path]:
    """Return the files of a folder, of its folder ``checkpoints``, or of a list.

    Raises:
        ValueError: If there are none, or one of a list is not there.
    """
    if isinstance(checkpoints, (str, Path)):
        folder = Path(checkpoints)
        files = sorted([*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")])
        files = [folder] if folder.is_file() else files
    else:
        files = [Path(checkpoint) for checkpoint in checkpoints]
    strays = [str(path) for path in files if not path.is_file()]
    if not files or strays:
        raise ValueError(
            f"Expected `checkpoints` to be files of ModelCheckpoint or a folder of such, got {strays or checkpoints!r}"
            f"{'' if strays else ' with none'}. Train with `ModelCheckpoint(save_top_k=-1)` and pass its `dirpath`."
        )
    return files


def read_checkpoints(files: Sequence[Path], learning_rate: float | None) -> Iterator[Checkpoint]:
    """Yield each checkpoint; of those of one step, such as ``last.ckpt``, the first alone.

    Args:
        files: As of :func:`checkpoint_files`.
        learning_rate: Instead of the one in each file.

    Raises:
        ValueError: If a file is no checkpoint of Lightning, or says no learning rate or several.
    """
    steps: set[int] = set()
    for path in files:
        # As Lightning itself reads them: they hold what the user's own hyperparameters are.
        content = torch.load(path, map_location="cpu", weights_only=False)
        if not isinstance(content, Mapping) or not {"state_dict", "global_step"} <= set(content):
            raise ValueError(
                f"Expected `checkpoints` of Lightning, with a state_dict and a global_step, got {path}. Save them with "
                "`ModelCheckpoint` or `trainer.save_checkpoint`."
            )
        step = int(content["global_step"])
        if step not in steps:
            steps.add(step)
            rate = _learning_rate(content, path) if learning_rate is None else float(learning_rate)
            yield Checkpoint(path, content["state_dict"], step, rate)


def _learning_rate(content: Mapping[str, Any], path: Path) -> float:
    states = content.get("optimizer_states") or []
    rates = {float(group["lr"]) for state in states for group in state.get("param_groups", ())}
    if len(rates) != 1:
        raise ValueError(
            f"Expected `checkpoints` with one learning rate, got {sorted(rates) or 'none'} in {path}. Pass "
            "`learning_rate=` with that of the last layer; with 1.0 all checkpoints count equally."
        )
    return rates.pop()
