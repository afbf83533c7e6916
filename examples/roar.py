"""Remove and retrain: how much accuracy a network loses without the pixels that a map names.

For each kind of map the most relevant pixels of all images are replaced by the mean, and a new network is trained on
what is left. In a second round the least relevant ones are replaced (keep and retrain). A random ranking is the
control. You will see the accuracy for each map and fraction, and both curves as a picture. Data: scikit-learn's digits.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from dynalens import explain, kar_datasets, pixel_relevance, roar_datasets
from dynalens.faithfulness import random_ranking, retrain
from dynalens.pictures import curve_chart

Data = Dataset[Any]
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
METHODS = ("random", "saliency", "integrated_gradients", "grad_cam")
COLOURS = ("#d55e00", "#0072b2", "#009e73")  # of the curves, in their order
SIDE, MARGIN = 320, 24


def network() -> nn.Module:
    """Return a small network for images of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def trained(train_set: Data, seed: int, epochs: int) -> nn.Module:
    """Return a new network after so many epochs."""
    torch.manual_seed(seed)
    model, batches = network(), DataLoader(train_set, batch_size=64, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, test_set: Data) -> float:
    """Return the part of the test set that is predicted right."""
    images, labels = next(iter(DataLoader(test_set, batch_size=10**6)))
    return float((model(images).argmax(dim=1) == labels).float().mean())


def ranking(model: nn.Module, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what gives maps (N, H, W) of images: those of a method, or a random ranking."""

    def maps(images: Tensor, targets: Tensor) -> Tensor:
        if method == "random":
            return random_ranking(images)
        return pixel_relevance(method, explain(model, images, targets, methods=method).maps[method], images.shape[2:])

    return maps


def curves(mask: Callable[..., Any], sets: Sequence[Data], args: argparse.Namespace) -> dict[str, Tensor]:
    """Return for each method the accuracies (fractions, seeds) of networks trained on what is left."""
    original = trained(sets[0], args.seeds, args.epochs)  # a seed that no retraining has

    def reached(train_set: Data, test_set: Data, seed: int) -> float:
        return accuracy(trained(train_set, seed, args.epochs), test_set)

    found = {}
    for method in METHODS:
        masked = [
            mask(part, ranking(original, method), args.out / mask.__name__ / method / which, fractions=args.fractions)
            for part, which in zip(sets, ("train", "test"), strict=True)
        ]
        accuracies = retrain(masked[0], masked[1], reached, seeds=range(args.seeds))
        found[method] = torch.tensor([accuracies[fraction] for fraction in args.fractions])
    return found


def picture(panels: dict[str, dict[str, Tensor]], fractions: Sequence[float]) -> Image.Image:
    """Return both rounds side by side: accuracy from 0 to 1 over the fraction of replaced pixels."""
    sheet = Image.new("RGB", (2 * SIDE + 3 * MARGIN, SIDE + 4 * MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, found) in enumerate(panels.items()):
        left = MARGIN + number * (SIDE + MARGIN)
        draw.text((left, MARGIN // 2), title, fill="black")
        means = {method: accuracies.mean(dim=1).numpy() for method, accuracies in found.items()}
        controls = {"random": means.pop("random")}
        chart = curve_chart(means, torch.tensor(fractions).numpy(), controls=controls, size=(SIDE, SIDE))
        sheet.paste(chart, (left, 2 * MARGIN))
    names = [method for method in METHODS if method != "random"]
    for number, (name, colour) in enumerate([*zip(names, COLOURS, strict=False), ("random", "#afafaf")]):
        draw.text((MARGIN + number * 160, SIDE + 3 * MARGIN), name, fill=colour)
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Explain, mask, train again for each map and fraction, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, help="networks for each map and fraction (%(default)s)")
    parser.add_argument("--samples", type=int, default=1797, help="images of the digits (%(default)s)")
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--out", type=Path, default=Path("roar"))
    args = parser.parse_args(argv)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    data = TensorDataset(images, torch.from_numpy(digits.target).long())
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: args.samples].tolist()
    cut = int(0.7 * len(order))
    sets: list[Data] = [Subset(data, order[:cut]), Subset(data, order[cut:])]
    panels = {}
    for title, mask in (("remove and retrain", roar_datasets), ("keep and retrain", kar_datasets)):
        panels[title] = curves(mask, sets, args)
        print(f"{title}: test accuracy by the fraction of pixels replaced, mean of {args.seeds} networks")
        print(f"{'':22}" + "".join(f"{100 * fraction:>6.0f} %" for fraction in args.fractions))
        for method, accuracies in panels[title].items():
            print(f"{method:22}" + "".join(f"{mean:8.3f}" for mean in accuracies.mean(dim=1).tolist()))
    path = args.out / "roar.png"
    picture(panels, args.fractions).save(path)
    print(f"{path} shows both: removing should cost much, keeping little. Grey is the random ranking.")


if __name__ == "__main__":
    main()
