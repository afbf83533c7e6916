"""A warning shows the line of the user's code that led to it, whatever stands between."""

from pathlib import Path

import pytest
import torch

from dynalens import AttributionMonitor, TrainingDynamicsMonitor, load_record
from dynalens.notices import warn
from training import Classifier, loader, trainer


def the_line(warned: pytest.WarningsRecorder, message: str) -> str:
    """Return the line of this file that a warning shows."""
    (one,) = [each for each in warned if message in str(each.message)]
    assert one.filename == __file__
    return Path(__file__).read_text().splitlines()[one.lineno - 1].strip()


def test_the_line_is_the_callers() -> None:
    with pytest.warns(UserWarning, match="plain") as warned:
        warn("plain")
    assert the_line(warned, "plain") == 'warn("plain")'


def test_a_decorator_of_torch_is_passed_by() -> None:
    decorated = torch.no_grad()(warn)
    with pytest.warns(UserWarning, match="decorated") as warned:
        decorated("decorated")
    assert the_line(warned, "decorated") == 'decorated("decorated")'


def test_warnings_of_a_fit_show_its_call_and_those_of_a_record_who_asked(tmp_path: Path) -> None:
    dynamics = TrainingDynamicsMonitor()
    runner = trainer(tmp_path, dynamics, AttributionMonitor(num_samples=1, metrics=()), max_epochs=1)
    with pytest.warns(UserWarning, match="TensorBoardLogger, got none") as warned:
        runner.fit(Classifier(), loader())
    assert the_line(warned, "got none") == "runner.fit(Classifier(), loader())"
    for monitor in (dynamics, load_record(tmp_path)):
        with pytest.warns(UserWarning, match="No label is flagged|The flags are doubtful") as warned:
            monitor.clean_indices()
        assert the_line(warned, "flag") == "monitor.clean_indices()"
