"""Compare self-influence with the default order of suspects, on a few of the stored trainings' settings.

Each run is a training as in ``noisy_runs.py``, with a checkpoint of every epoch. "self-influence" is what
:func:`dynalens.self_influence` returns of these files, and "last" that of the last checkpoint alone.
The dataset passes once more for each checkpoint, in evaluation mode.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from noisy_runs import HUMAN, HUMAN_LABELS, JUDGED, Run, given_labels, load, network
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dynalens import TrainingDynamics, self_influence
from dynalens.suspicion import assess

Array = npt.NDArray[Any]


def trained(images: Tensor, given: Array, run: Run, folder: Path) -> tuple[nn.Module, Array, Array]:
    """Train with a checkpoint of every epoch; return the network and the scores of the default order and of AUM."""
    torch.manual_seed(run.seed)
    labels = torch.from_numpy(given)
    model = network(images.shape[1], int(given.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    dynamics, history = TrainingDynamics(len(given)), []
    for epoch in range(run.epochs):
        for index in torch.split(torch.randperm(len(given)), 50):
            logits = model(images[index])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[index]).backward()  # type: ignore[no-untyped-call]  # torch has no type here
            optimizer.step()
            dynamics.update(index, logits.detach(), labels[index])
        history.append(dynamics.end_epoch(epoch).presentations())
        content = {
            "state_dict": model.state_dict(),
            "global_step": epoch,
            "optimizer_states": [optimizer.state_dict()],
        }
        torch.save(content, folder / f"epoch={epoch:02d}.ckpt")
    statistics = dynamics.compute()
    return model, assess(statistics, history).score, -statistics.margin


def compared(images: Tensor, given: Array, true: Array, run: Run) -> dict[str, float]:
    """Return the average precision of each score, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        model, default, aum = trained(images, given, run, Path(folder))
        data = TensorDataset(images, torch.from_numpy(given))
        files = sorted(Path(folder).glob("*.ckpt"))
        scores = {"default": default, "aum": aum}
        for name, part in (("self-influence", files), ("self-influence, last", files[-1:])):
            scores[name] = self_influence(None, part, model, data, batch_size=500).to_numpy()
    return {name: 100 * average_precision_score(given != true, score) for name, score in scores.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--samples", type=int, help="train on so many only")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = [(HUMAN, labels, percent) for labels, percent in HUMAN_LABELS.items()]
    settings += [("mnist", "uniform", 20), ("mnist", "pair", 20)]
    for number, (data, flips, percent) in enumerate(settings):
        run = Run(JUDGED, data, flips, percent, False, args.epochs, args.seed)
        images, true = load(args.data, data, args.seed)
        given = given_labels(run, args.data, images, true, args.data)
        rows = slice(args.samples)
        values = compared(images[rows], given[rows], true[rows], run)
        if not number:
            print("| run | " + " | ".join(values) + " |\n" + "|---" * (len(values) + 1) + "|")
        name = f"{data}, {flips} {percent} %, {args.epochs} epochs"
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
