"""Jobs that are quick to train, and ways in which they go wrong."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

import estafeta


class Slow(nn.Module):
    """A linear classifier whose every forward pass takes so many seconds: the work that a time limit cuts short.

    No test waits by it. It sleeps, since busy workers would take the processors from each other and from
    the tests beside them, and then a limit would cut short more than this.
    """

    def __init__(self, work_s: float) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.1)
        self.work_s = work_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.work_s)
        return self.dropout(self.linear(x))


def slow(work_s: float = 0.0) -> nn.Module:
    return Slow(work_s)


def huge(megabytes: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 10), nn.Linear(10, megabytes * 25_000), nn.Linear(megabytes * 25_000, 10))


def few_rows() -> tuple[np.ndarray, np.ndarray]:
    return np.ones((4, 64), np.float32), np.zeros(4, np.int64)


def nan_when_large(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.cross_entropy(output, target)
    return loss * float("nan") if (output.std() > 2.0) else loss


def rising() -> nn.Module:
    return nn.Linear(64, 10)


job = estafeta.Job(
    model=slow,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.AdamW(lr=1e-2),
    dataset="digits",
    batch_size=256,
    micro_batch_size=32,
    epochs=2,
    metrics={"accuracy": estafeta.metrics.accuracy},
    seed=5,
)
big = estafeta.Job(model=huge, loss=nn.functional.cross_entropy, optimizer=estafeta.SGD(lr=0.1), dataset="digits")
few = estafeta.Job(model=rising, loss=nn.functional.cross_entropy, optimizer=estafeta.SGD(lr=0.1), dataset=few_rows)
diverging = estafeta.Job(
    model=rising, loss=nan_when_large, optimizer=estafeta.SGD(lr=30.0), dataset="digits", batch_size=256
)
