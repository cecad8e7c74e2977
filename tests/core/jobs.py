"""The jobs that the tests train: small, and each there for one property. A user's file: sent to the run as it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from core import spending
from estafeta.job.job import Job
from estafeta.job.optim import SGD, Adam, AdamW
from estafeta.job.schedules import Cosine
from estafeta.metrics import accuracy

COLUMNS, CLASSES = 6, 3


def table(rows: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that a linear teacher has put into classes; 48 of them make 36 to train on, in batches of 16, 16 and 4."""
    numbers = np.random.default_rng(seed)
    inputs = numbers.standard_normal((rows, COLUMNS)).astype(np.float32)
    teacher = numbers.standard_normal((COLUMNS, CLASSES))
    return inputs, (inputs @ teacher).argmax(1)


def images(rows: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(5)
    inputs = torch.randn(rows, 1, 6, 6, generator=numbers)
    return inputs, (inputs.mean((1, 2, 3)) > 0).long()


class Noisy(Dataset):
    """Rows that are augmented with random numbers when they are read."""

    def __init__(self) -> None:
        self.inputs, self.target = (torch.from_numpy(array) for array in table())

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        shift = torch.randn(COLUMNS) + float(np.random.standard_normal())
        return self.inputs[row] + 0.1 * shift, self.target[row]


class Slow(Noisy):
    """Rows that take a third of a second to read, each."""

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        spending.spend(0.3)
        return super().__getitem__(row)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 12), nn.ReLU(), nn.Dropout(0.4), nn.Linear(12, CLASSES))


class Ponderous(nn.Sequential):
    """A model that takes a third of a second for each micro-batch."""

    def __init__(self) -> None:
        super().__init__(*mlp())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        spending.spend(0.3)
        return super().forward(inputs)


class Tied(nn.Module):
    """An encoder whose transpose decodes, a layer that is not trained, and a buffer that is reassigned, not changed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(COLUMNS, COLUMNS, bias=False)
        self.decoder = nn.Linear(COLUMNS, COLUMNS, bias=False)
        self.decoder.weight = self.encoder.weight
        self.fixed = nn.Linear(COLUMNS, COLUMNS).requires_grad_(False)
        self.head = nn.Linear(COLUMNS, CLASSES)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("offset", torch.tensor([-2, -1]))
        self.register_buffer("not_saved", torch.ones(2), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(inputs)
        return self.head(self.fixed(self.decoder(self.encoder(inputs)).tanh()) * self.not_saved.mean())


plain = Job(
    model=mlp,
    loss=nn.functional.cross_entropy,
    dataset=table,
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True),
    epochs=2,
    batch_size=16,
    micro_batch_size=4,
    validation=0.25,
    metrics={"accuracy": accuracy},
    seed=3,
)


def _like_plain(**changes: object) -> Job:
    return Job(**{**vars(plain), **changes})


adam = _like_plain(optimizer=Adam(lr=0.02))
adamw = _like_plain(optimizer=AdamW(lr=0.05, weight_decay=0.1, clip_norm=0.3, schedule=Cosine()), epochs=3)
convolutional = _like_plain(model=cnn, dataset=images, optimizer=SGD(lr=0.2), epochs=3, batch_size=6)
batch_norm = _like_plain(model=with_batch_norm, drop_last=True)
dropout = _like_plain(model=with_dropout)
noisy = _like_plain(dataset=Noisy)
slow = _like_plain(dataset=Slow, micro_batch_size=2, epochs=1)
ponderous = _like_plain(model=Ponderous, micro_batch_size=1)
tied = _like_plain(model=Tied)
row_losses = _like_plain(loss=nn.CrossEntropyLoss(reduction="none"))
not_validated = _like_plain(validation=0.0)
own_validation = _like_plain(valid_dataset=lambda: table(rows=5, seed=1))
