"""Surrogates of models that are what the surrogates are: linear ones, thresholds, and averages by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynalens import (
    explain,
    lime_maps,
    local_fidelity,
    normlime,
    normlime_sheet,
    pixel_relevance,
    tree_picture,
    tree_surrogate,
)
from dynalens.faithfulness import patches
from toys import Linear, SmallCNN

Y = torch.tensor([0, 2, 1])


def linear() -> tuple[Linear, Tensor]:
    torch.manual_seed(0)
    return Linear(2 * 8 * 9, 3), torch.randn(3, 2, 8, 9)


def contributions(model: Linear, x: Tensor, patch: Tensor) -> Tensor:
    """Sum of w x over each patch: what its replacement by zeros takes from the target's logit."""
    products = (model.layer.weight[Y].view(x.shape) * x).sum(dim=1).detach()
    expected = torch.zeros_like(products)
    for i in range(len(x)):
        for k in set(patch.flatten().tolist()):
            expected[i][patch == k] = products[i][patch == k].sum()
    return expected


def test_patches_cut_each_side_into_seven_parts() -> None:
    patch = patches((28, 30))
    assert len(set(patch.flatten().tolist())) == 49
    sizes = torch.bincount(patch.flatten())
    assert sizes.min() >= 4 * 4
    assert sizes.max() <= 4 * 5
    assert torch.equal(patches((3, 2)), torch.arange(6).view(3, 2))


def test_the_linear_model_around_a_sample_is_a_linear_network_itself() -> None:
    model, x = linear()
    found = lime_maps(model, x, Y, samples=120, penalty=1e-6)
    torch.testing.assert_close(found.maps, contributions(model, x, found.features), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.fidelity, torch.ones(3), rtol=0, atol=1e-4)
    assert model.training


def test_a_heavy_penalty_leaves_the_prior_of_the_class_or_zero() -> None:
    model, x = linear()
    prior = {0: 3 * patches((8, 9)).float()}
    found = lime_maps(model, x, Y, samples=60, prior=prior, penalty=1e9)
    torch.testing.assert_close(found.maps[0], prior[0], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.maps[1:], torch.zeros(2, 8, 9), rtol=0, atol=1e-2)


def test_columns_of_a_table_are_features() -> None:
    torch.manual_seed(0)
    model, x = Linear(5, 3), torch.randn(3, 1, 5)
    found = lime_maps(model, x, Y, features=torch.arange(5), samples=80, penalty=1e-6)
    torch.testing.assert_close(found.maps, (model.layer.weight[Y] * x[:, 0]).detach(), rtol=1e-3, atol=1e-3)


def slow_fidelity(model: nn.Module, image: Tensor, target: int, relevance: Tensor, other: Tensor) -> float:
    """Best line with a slope of at least 0, by its definition, over the same 50 halves."""
    patch = patches(image.shape[1:])
    left = torch.randint(0, 2, (50, int(patch.max()) + 1), generator=torch.Generator().manual_seed(0))
    sums, logits = [], []
    for row in left:
        shown = row[patch].bool()
        sums.append(float(relevance[shown].sum()))
        with torch.no_grad():
            logits.append(float(model(torch.where(shown, image, other).unsqueeze(0))[0, target]))
    s, z = torch.tensor(sums).double(), torch.tensor(logits).double()
    design = torch.stack([torch.ones_like(s), s], dim=1)
    coefficients = torch.linalg.lstsq(design, z.unsqueeze(1)).solution.squeeze(1)
    if coefficients[1] < 0:
        return 0.0
    return float(1 - (z - design @ coefficients).square().sum() / (z - z.mean()).square().sum())


def test_the_local_fidelity_is_that_of_the_best_line() -> None:
    torch.manual_seed(1)
    model, x = SmallCNN().eval(), torch.randn(3, 1, 9, 8)
    maps = pixel_relevance(
        "input_x_gradient", explain(model, x, Y, methods="input_x_gradient").maps["input_x_gradient"], (9, 8)
    )
    found = local_fidelity(model, x, Y, maps, baseline="mean")
    for i in range(3):
        expected = slow_fidelity(model, x[i], int(Y[i]), maps[i], x[i].mean().expand_as(x[i]))
        assert float(found[i]) == pytest.approx(expected, abs=1e-4)


def test_the_exact_map_of_a_linear_network_has_the_fidelity_1_and_its_opposite_0() -> None:
    model, x = linear()
    exact = (model.layer.weight[Y].view(x.shape) * x).sum(dim=1).detach()
    torch.testing.assert_close(local_fidelity(model, x, Y, exact, baseline="zero"), torch.ones(3))
    assert local_fidelity(model, x, Y, -exact, baseline="zero").tolist() == [0.0] * 3
    assert local_fidelity(model, x, Y, 0 * exact, baseline="zero").tolist() == [0.0] * 3
    assert local_fidelity(model, 0 * x, Y, exact, baseline="zero").isnan().all()


def test_normlime_is_its_formula_written_with_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(6, 2, 2, generator=generator) * (torch.rand(6, 2, 2, generator=generator) > 0.4)
    labels = torch.tensor([0, 5, 0, 5, 5, 0])
    found = normlime(maps, labels)
    assert sorted(found) == [0, 5]
    for label, importance in found.items():
        for row in range(2):
            for column in range(2):
                terms = [
                    abs(float(w[row, column])) / float(w.abs().sum()) * abs(float(w[row, column]))
                    for w, y in zip(maps, labels, strict=True)
                    if y == label and w[row, column] != 0
                ]
                expected = sum(terms) / len(terms) if terms else 0.0
                assert float(importance[row, column]) == pytest.approx(expected)


def test_positions_of_one_feature_count_once() -> None:
    features = torch.tensor([[0, 0], [0, 1]])
    maps = torch.tensor([[[1.0, 1.0], [1.0, 3.0]]])
    (importance,) = normlime(maps, torch.tensor([2]), features=features).values()
    assert importance.tolist() == [[0.25, 0.25], [0.25, 2.25]]  # 1 / 4 of 1, and 3 / 4 of 3


class Steps(nn.Module):
    """Class 2 right of 0.5 in column 1; else class 0 or 1 by the sign of column 0."""

    def forward(self, x: Tensor) -> Tensor:
        third = 10 * (x[:, 1] > 0.5).float()
        return torch.stack([(x[:, 0] <= 0).float(), (x[:, 0] > 0).float(), third], dim=1)


def test_a_tree_reads_the_thresholds_of_a_network() -> None:
    rows = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = tree_surrogate(Steps(), rows, depth=2, feature_names=["a", "b"], class_names=["left", "right", "top"])
    assert found.fidelity == pytest.approx(1.0, abs=0.02)
    assert found.majority < 0.5
    assert all(name in found.rules for name in ("a", "b", "left", "right", "top"))
    assert tree_surrogate(Steps(), rows, depth=1).fidelity < found.fidelity


class Signs(nn.Module):
    """Class 2 where the second column is above 0, else class 1 where the first is, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x[:, 0] > 0).float(), (x[:, 1] > 0).float()
        return torch.stack([(1 - first) * (1 - second), first * (1 - second), second], dim=1)


def test_the_picture_of_a_tree_has_its_questions_and_its_classes_under_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: dict[str, tuple[float, float]] = {}

    def write(_draw: Any, position: tuple[float, float], text: str, *_: Any, **_options: Any) -> None:
        written[text] = position

    monkeypatch.setattr("dynalens.logs.surrogates.write", write)
    rows = torch.cartesian_prod(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 20))
    surrogate = tree_surrogate(Signs(), rows)
    tree_picture(surrogate, feature_names=["width", "height"], class_names=["cat", "dog", "owl"])
    title = next(text for text in written if text.startswith("agrees"))
    assert title.startswith("agrees with the network on 100 % of the rows held out")
    boxes = {text: position for text, position in written.items() if text in {"height", "width", "cat", "dog", "owl"}}
    assert len(boxes) == 5
    # `height <= 0?` comes first: no leads to the owl, on the right; yes to the width, whose yes is the cat.
    assert boxes["cat"][0] < boxes["width"][0] < boxes["dog"][0] < boxes["owl"][0]
    assert boxes["height"][1] < boxes["width"][1] == boxes["owl"][1] < boxes["cat"][1] == boxes["dog"][1]
    tree = surrogate.tree.tree_
    assert f"<= {tree.threshold[0]:.3g}?  300 rows" in written
    assert f"{tree.n_node_samples[tree.children_right[0]]} rows, 100 % right" in written


def test_the_sheet_of_normlime_marks_what_is_important_in_the_mean_of_the_class() -> None:
    corner = torch.zeros(8, 8)
    corner[0, 0] = 1
    x, y = torch.full((4, 1, 8, 8), 0.5), torch.tensor([0, 0, 1, 1])
    x[:, :, 0, 1] = torch.tensor([0.2, 0.8, 0.0, 1.0])[:, None]  # the mean is 0.5 everywhere
    cells = torch.as_tensor(np.array(normlime_sheet({0: corner, 1: corner.flip(0)}, x, y))).float()
    assert cells.shape[0] > normlime_sheet({0: corner}, x, y).height
    colours = cells.amax(dim=2) - cells.amin(dim=2)
    rows, columns = torch.nonzero(colours > 60, as_tuple=True)  # the rest is grey
    assert len(rows) > 0
    assert (columns < 350).all()
    assert rows[-1] - rows[0] > 100  # one mark at the top of the first class, one at the bottom of the second
    for importance in ({}, {2: corner}, {0: corner[:4]}):
        with pytest.raises(ValueError, match="Expected `importance` to hold classes that have samples"):
            normlime_sheet(importance, x, y)
    assert normlime_sheet({0: torch.rand(5)}, torch.rand(4, 5), y).width == 700


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: lime_maps(m, x, Y, features=torch.arange(4)),
            r"Expected `features` of shape \(8, 9\), got \(4,\)",
        ),
        (lambda m, x: lime_maps(m, x, Y, samples=0), "Expected `samples` to be at least 1"),
        (lambda m, x: local_fidelity(m, x, Y, x), r"Expected `maps` of shape \(3, 8, 9\), got \(3, 2, 8, 9\)"),
        (lambda m, x: normlime(x[:, 0], Y[:2]), r"Expected `maps` \(N, \*spatial\) and `labels` \(N,\)"),
        (lambda m, x: normlime(x[:, 0], Y, features=torch.arange(3)), r"Expected `features` of shape \(8, 9\)"),
        (lambda m, x: tree_surrogate(m, x), "Expected `inputs` to be at least 8 rows of a table"),
        (lambda m, x: tree_surrogate(m, torch.zeros(9, 2), depth=0), "Expected `depth` to be at least 1"),
        (
            lambda m, x: tree_surrogate(nn.Linear(2, 2), torch.full((9, 2), torch.nan)),
            "Expected finite logits, got NaN",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    model, x = linear()
    with pytest.raises(ValueError, match=message):
        call(model, x)


def test_a_tree_of_a_network_in_bfloat16_is_fitted_to_its_inputs() -> None:
    rows = torch.linspace(-1, 1, 40).unsqueeze(1).bfloat16()
    assert tree_surrogate(nn.Identity(), torch.cat([-rows, rows], dim=1)).fidelity == 1


def test_a_logit_that_never_changes_has_no_fidelity() -> None:
    _, x = linear()
    found = lime_maps(nn.Flatten(), x, Y, samples=8, forward=lambda x: torch.ones(len(x), 3))
    assert found.fidelity.isnan().all()
