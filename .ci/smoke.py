"""What the wheel must do in an environment that holds nothing but the wheel and what it asks for."""

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import dynalens


class Classifier(pl.LightningModule):
    """One convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main() -> None:
    """Train with both callbacks, read the suspects from the run's folder and from the command line."""
    warnings.filterwarnings("error", message=".*training goes on")  # what was switched off
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.randn(64, 1, 8, 8) + 3 * (labels.view(-1, 1, 1, 1) - 0.5)
    labels[7] = 1 - labels[7]
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[pl.Callback] = [dynalens.TrainingDynamicsMonitor(), dynalens.AttributionMonitor()]
        trainer = pl.Trainer(
            max_epochs=4,
            accelerator="cpu",
            callbacks=callbacks,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(Classifier(), DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True))
        run = Path(folder) / "lightning_logs" / "version_0"
        assert dynalens.load_record(run).table()["rank"].idxmin() == 7
        command = [Path(sys.executable).with_name("dynalens"), "suspects", run, "--top", "1"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        subprocess.run([command[0], "report", run], check=True, capture_output=True)
        assert list(run.rglob("report.html"))
        assert list(run.glob("events.out.tfevents.*"))
    print(listed)


if __name__ == "__main__":
    main()
