"""The mean probabilities of a run are what cleanlab works on."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dynalens import SampleStatistics, TrainingDynamicsMonitor, load_record
from training import Classifier, fit

pytest.importorskip("cleanlab")
pytest.importorskip("datasets")  # of its extra `datalab`

# It calls what newer releases of pandas deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

N, K, WRONG = 300, 3, 30


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> SampleStatistics:
    """Of a run on three bright stripes, of which the first 30 samples have the label of the next one."""
    folder = tmp_path_factory.mktemp("run")
    classes = torch.arange(N) % K
    images = torch.zeros(N, 1, 6, 6)
    images[torch.arange(N), 0, 2 * classes] = 1.0
    given = torch.where(torch.arange(N) < WRONG, (classes + 1) % K, classes)

    class Plain(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self(batch[0]), batch[1])

    fit(
        folder,
        TrainingDynamicsMonitor(mean_probabilities=True),
        model=Plain(),
        data=lambda: DataLoader(TensorDataset(images, given), batch_size=20, shuffle=True),
        max_epochs=6,
    )
    return load_record(folder).statistics


def assert_most_wrong_ones(found: Any) -> None:
    """At least five in six of the wrong labels and no right one; its thresholds are cleanlab's own."""
    assert set(found) <= set(range(WRONG))
    assert len(found) >= 25


def test_find_label_issues_finds_the_wrong_labels(statistics: SampleStatistics) -> None:
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        statistics.label, statistics.mean_probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert_most_wrong_ones(found)


def test_datalab_finds_the_wrong_labels(statistics: SampleStatistics) -> None:
    from cleanlab import Datalab

    lab = Datalab({"label": statistics.label}, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=statistics.mean_probabilities, issue_types={"label": {}})
    assert_most_wrong_ones(np.flatnonzero(lab.get_issues("label")["is_label_issue"]))
