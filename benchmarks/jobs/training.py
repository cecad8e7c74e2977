"""Jobs of known size on made-up data, for benchmarks of whole runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import estafeta

LR, MOMENTUM = 0.05, 0.0
"""Of plain SGD, here and in what this is compared with."""


def network(sizes: Sequence[int] = (784, 256, 10)) -> nn.Module:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def rows(folder: str = "", name: str = "images", count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that `make_rows` has put into a folder: mapped, so that workers share them."""
    inputs = np.load(Path(folder) / f"{name}-x.npy", mmap_mode="c")
    targets = np.load(Path(folder) / f"{name}-y.npy", mmap_mode="c")
    return inputs[: count or None], targets[: count or None]


def make_rows(folder: Path, images: int, events: int) -> None:
    """Put data with fixed seeds into a folder: ten classes of 784 numbers, and two classes of 28."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((images, 784), np.float32)
    scores = inputs @ generator.standard_normal((784, 10), np.float32)
    scores += 3 * generator.standard_normal((images, 10), np.float32)
    np.save(folder / "images-x.npy", inputs)
    np.save(folder / "images-y.npy", scores.argmax(1))
    generator = np.random.default_rng(1)
    inputs = generator.standard_normal((events, 28), np.float32)
    score = inputs @ generator.standard_normal(28) * 0.5 + 0.3 * inputs[:, 0] * inputs[:, 1]
    np.save(folder / "events-x.npy", inputs)
    np.save(folder / "events-y.npy", (generator.random(events) < 1 / (1 + np.exp(-score))).astype(np.float32))


def log_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of a logistic regression."""
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(1), target)


classes = estafeta.Job(
    model=network,
    loss=nn.functional.cross_entropy,
    dataset=rows,
    optimizer=estafeta.SGD(lr=LR, momentum=MOMENTUM),
    batch_size=512,
    micro_batch_size=256,
    drop_last=True,
    validation=0.0,
)

logistic = estafeta.Job(
    model=network,
    loss=log_loss,
    dataset=rows,
    optimizer=estafeta.SGD(lr=LR, momentum=MOMENTUM),
    batch_size=512,
    micro_batch_size=256,
    drop_last=True,
    validation=0.0,
)
