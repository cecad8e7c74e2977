"""A job that needs nothing but what Estafeta itself brings along."""

from __future__ import annotations

import numpy as np
from torch import nn

import estafeta


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def rows() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    x = draw.standard_normal((256, 8), dtype=np.float32)
    return x, (x @ draw.standard_normal((8, 3), dtype=np.float32)).argmax(1)


job = estafeta.Job(
    model=model,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.Adam(lr=0.01),
    dataset=rows,
    batch_size=64,
    epochs=2,
    seed=3,
)
