"""The same digits as images, with a convolutional network, batch normalisation and dropout.

    estafeta train examples/digits_cnn.py --workers 4

Shows a data set of one's own, a schedule with warm-up, clipping, and an early stop on a target.
"""

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import estafeta


def images() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return (digits.images / 16.0).astype(np.float32)[:, None], digits.target.astype(np.int64)


def model(channels: int = 16, dropout: float = 0.2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * channels * 4, 10),
    )


job = estafeta.Job(
    model=model,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.SGD(
        lr=0.2,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        clip_norm=1.0,
        schedule=estafeta.Warmup(1, then=estafeta.Cosine()),
    ),
    dataset=images,
    batch_size=128,
    epochs=15,
    metrics={"accuracy": estafeta.metrics.accuracy},
    early_stopping=estafeta.EarlyStopping(monitor="valid_accuracy", target=0.99),
    seed=7,
)
