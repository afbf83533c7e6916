"""Settings of the whole suite."""

import functools
import gc
import importlib.metadata
import logging
import os
from collections.abc import Generator
from typing import Any

import pytest

# Each Trainer reads the metadata of all installed packages, which takes as long as a short fit. Here it is read once.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[assignment]  # called alike

for name in ("pytorch_lightning", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.ERROR)


def pytest_configure(config: pytest.Config) -> None:
    """Fits are compared bit for bit, on a card too (``DYNALENS_TEST_ACCELERATOR=gpu``)."""
    if config.getoption("numprocesses", None):
        return  # this process hands the tests to others and imports no torch, which takes seconds
    import torch

    # Two threads are slower than one on a shared machine, and sums differ between thread counts.
    torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Half a million objects are imported, and stay: the garbage collector leaves them alone, then and later.

    It also looks less often for the few that a test leaves, which took 3 % of the processor time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


def pytest_sessionfinish() -> None:
    """What is imported for the summary looks for the objects that refer to its own, as Hypothesis does."""
    gc.unfreeze()


@pytest.fixture
def drawn() -> None:
    """For a test that draws in a module whose others are `undrawn`."""


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn at an epoch's end, which takes a third of a short fit: for tests that read the record alone."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("dynalens.pictures.pace.PicturePace.offer", lambda pace, draw, **_: False)
