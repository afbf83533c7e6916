"""Try claims of the sources again: python -m reproduce --data DIR (with this folder's parent as PYTHONPATH).

Means over seeds with the half width of the 95 % interval of the mean (Student's t), in percent; differences are paired
by seed. Four fifths of the images are trained on, one fifth is tested on.
"""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from reproduce import data_maps, forgetting, mislabeled
from reproduce.training import recorded, split

CLAIMS = ("forgetting", "data_maps", "mislabeled")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m reproduce", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of mnist10k.npz and cifar10_5k.npz")
    parser.add_argument("--sets", nargs="+", default=["mnist", "cifar"], help="data sets (%(default)s)")
    parser.add_argument("--claims", nargs="+", default=CLAIMS, choices=CLAIMS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--samples", type=int, help="use only the first ones")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables as they are ready."""
    args = arguments(argv)
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in args.sets:
        if {"forgetting", "data_maps"} & set(args.claims):
            splits = [split(args.data, name, seed, args.samples) for seed in range(args.seeds)]
            runs = [(data, recorded(data, data.labels, seed, args.epochs)) for seed, data in enumerate(splits)]
            for claim, module in (("data_maps", data_maps), ("forgetting", forgetting)):
                if claim in args.claims:
                    print(module.table(name, runs, args.epochs), end="\n\n", flush=True)
        if "mislabeled" in args.claims:
            print(mislabeled.table(args.data, name, (args.seeds, args.epochs, args.samples)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
