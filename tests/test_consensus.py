"""What maps of several epochs and runs agree on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, consensus, load_explanations
from dynalens.cli import main
from dynalens.explanations import ExplainedEpoch, agreement_of_runs
from dynalens.faithfulness import consensus_agreement
from dynalens.pictures import FilmStrip
from training import attribution_monitor, fit, loader

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")


def maps(seed: int, n: int = 3) -> Tensor:
    return torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(seed))


def slow_consensus(parts: list[Tensor]) -> np.ndarray:
    arrays = [part.double().numpy() for part in parts]
    return np.asarray(np.mean([[one / (np.sqrt((one**2).sum()) or 1) for one in part] for part in arrays], axis=0))


def test_a_consensus_is_the_mean_of_maps_over_their_norms() -> None:
    parts = [maps(0), 1e-6 * maps(1), 1e6 * maps(2)]
    np.testing.assert_allclose(consensus(parts), slow_consensus(parts), rtol=1e-5, atol=1e-7)
    zeros = consensus([torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])])
    assert zeros.tolist() == [[0.0, 0.5]]  # a map of zeros votes for nothing


def test_each_run_is_compared_with_the_others() -> None:
    parts = [maps(seed) for seed in range(3)]
    found = consensus_agreement(parts)
    for run in range(3):
        others = slow_consensus([part for number, part in enumerate(parts) if number != run])
        expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(parts[run], others, strict=True)]
        np.testing.assert_allclose(found[run], expected, atol=1e-5)


@pytest.mark.parametrize("parts", [[], [maps(0), maps(0, 2)]], ids=["none", "of other images"])
def test_maps_that_cannot_be_averaged_are_refused(parts: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"Expected `maps` of one shape \(N, \*spatial\), got"):
        consensus(parts)
    with pytest.raises(ValueError, match="Expected two or more sets of `maps` to compare, got 1"):
        consensus_agreement([maps(0)])


def monitor(**arguments: Any) -> AttributionMonitor:
    defaults: dict[str, Any] = {"methods": "saliency", "num_samples": 2, "on_error": "raise"}
    return attribution_monitor(**(defaults | arguments))


def test_the_metric_compares_an_epoch_with_all_before_it_also_after_a_checkpoint(tmp_path: Path) -> None:
    own = monitor(metrics=("consensus",))
    fit(tmp_path, own, val=lambda: loader(shuffle=False), max_epochs=3)
    epochs = load_explanations(tmp_path)
    assert "saliency/consensus" not in epochs[0].values  # there is nothing to agree with
    kept = [torch.as_tensor(epoch.maps["saliency"]) for epoch in epochs]
    others = slow_consensus(kept[:2])
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(kept[2], others, strict=True)]
    np.testing.assert_allclose(epochs[2].values["saliency/consensus"], expected, atol=1e-2)  # maps kept as float16
    resumed = monitor(metrics=("consensus",))
    resumed.load_state_dict(own.state_dict())
    total = resumed.state_dict()["total"]["saliency"]
    np.testing.assert_allclose(total, 3 * slow_consensus(kept), atol=1e-2)


def test_a_film_ends_with_what_its_epochs_agree_on() -> None:
    film, black = FilmStrip(), np.zeros((4, 4, 3), np.uint8)
    one, other = np.zeros((4, 4)), np.zeros((4, 4))
    one[0, 0] = other[0, 0] = other[3, 3] = 1.0
    film.add(0, [black], [one], [True], is_signed=False)
    alone = film.image("", ["a"])
    film.add(1, [black], [other], [True], is_signed=False)
    both = film.image("", ["a"])
    assert np.array(alone).any()
    # Normalised: 1 + .71 where both look, .71 where one does.
    np.testing.assert_allclose(film._total[0][[0, 3], [0, 3]], [1 + 2**-0.5, 2**-0.5])
    assert len(film._consensus((8, 8))) == 1
    assert both.size == alone.size
    film.add(2, [np.zeros((6, 6, 3), np.uint8)], [np.ones((6, 6))], [True], is_signed=False)
    assert film._consensus((8, 8)) == []  # images of another size begin anew


def test_a_film_of_words_ends_with_a_line_of_what_its_epochs_agree_on() -> None:
    film = FilmStrip()
    film.add(0, [("good", "film")], [np.array([1.0, 0.0])], [True], is_signed=False)
    height = film.image("", ["a"]).height
    film.add(1, [("good", "film")], [np.array([1.0, 0.0])], [False], is_signed=False)
    assert film.image("", ["a"]).height > height + 20  # a second line, and that of all


def test_runs_are_compared_by_the_maps_that_they_kept_of_the_same_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(tmp_path / run) for run in ("a", "b")]
    for run, epochs in zip(runs, (1, 2), strict=True):
        fit(
            Path(run), TrainingDynamicsMonitor(), monitor(metrics=()), val=lambda: loader(shuffle=False),
            max_epochs=epochs,
        )  # fmt: skip
    assert main(["compare", *runs]) == 0
    said = capsys.readouterr().out
    assert "saliency: the rank correlation of a run's maps with the consensus of the other runs is" in said
    assert "over 2 samples; 0 is chance" in said


def test_runs_that_explained_other_samples_or_in_another_size_are_not_compared() -> None:
    label, ones = np.array([1]), np.ones((1, 2))
    first = ExplainedEpoch(0, ["a"], label, label, {"saliency": ones, "grad_cam": ones}, {})
    assert agreement_of_runs([first, ExplainedEpoch(0, ["b"], label, label, {"saliency": ones}, {})]) == {}
    other = ExplainedEpoch(0, ["a"], label, label, {"saliency": np.ones((1, 3)), "grad_cam": ones}, {})
    assert list(agreement_of_runs([first, other])) == ["grad_cam"]
    assert agreement_of_runs([first, ExplainedEpoch(0, ["a"], label, label + 1, {"saliency": ones}, {})]) == {}
