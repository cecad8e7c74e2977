"""A linear classifier on rows of 784 numbers that were imported as `large`: little arithmetic, much to read."""

from torch import nn

import estafeta


def model() -> nn.Module:
    return nn.Linear(784, 10)


job = estafeta.Job(
    model=model,
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.AdamW(lr=1e-2),
    dataset="large",
    batch_size=8192,
    micro_batch_size=1024,
    window_mb=32,
    epochs=1,
    validation=0.0,
    metrics={"accuracy": estafeta.metrics.accuracy},
)
