"""The checkpoints of a run that Lightning's ``ModelCheckpoint`` wrote: their weights, steps and learning rates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Checkpoints = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds.

    Attributes:
        path: The file.
        weights: The ``state_dict`` of the module, on the CPU.
        step: Number of optimizer steps before the checkpoint.
        learning_rate: Learning rate of the next step.
    """

    path: Path
    weights: Mapping[str, Tensor]
    step: int
    learning_rate: float


def checkpoint_files(checkpoints: Checkpoints) -> list[Path]:
    """Return the checkpoint files in a folder and in its folder ``checkpoints``, or those of a list.

    Raises:
        ValueError: If there are no files, or a file of the list does not exist.
    """
    if isinstance(checkpoints, (str, Path)):
        folder = Path(checkpoints)
        files = sorted([*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")])
        files = [folder] if folder.is_file() else files
    else:
        files = [Path(checkpoint) for checkpoint in checkpoints]
    missing_files = [str(path) for path in files if not path.is_file()]
    if not files or missing_files:
        problem = f"paths without a file, {', '.join(missing_files)}" if missing_files else f"no file in {checkpoints}"
        raise ValueError(
            f"Expected `checkpoints` to be files of ModelCheckpoint or a folder with such files, got {problem}. Train "
            "with `ModelCheckpoint(save_top_k=-1)` and pass its `dirpath`."
        )
    return files


def read_checkpoints(files: Sequence[Path], learning_rate: float | None) -> Iterator[Checkpoint]:
    """Yield each checkpoint. If several files are of the same step, as ``last.ckpt`` may be, only the first one counts.

    Args:
        files: The result of :func:`checkpoint_files`.
        learning_rate: Learning rate to use instead of the one in each file, or None.

    Raises:
        ValueError: If a file is no checkpoint of Lightning, or does not hold exactly one learning rate.
    """
    steps: set[int] = set()
    for path in files:
        # Lightning reads them in the same way: hyperparameters in them may be objects of any class.
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
            "`learning_rate=` with the rate of the last layer. With 1.0, all checkpoints count equally."
        )
    return rates.pop()
