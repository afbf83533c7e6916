"""Settings of the whole suite."""

import logging

import torch

# Two threads are slower than one on a shared machine, and sums differ between thread counts.
torch.set_num_threads(1)
for name in ("pytorch_lightning", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.ERROR)
