"""The plain PyTorch loop that a run must agree with: one process, whole batches, `torch.optim`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from estafeta.data.sampler import batch_of, split_rows, steps_per_epoch
from estafeta.job.job import Job
from estafeta.protocol.spec import RunSpec


@dataclass
class Trained:
    """The result of the loop.

    Attributes:
        model: The model.
        optimizer: The optimiser.
        losses: Training loss and validation loss after each epoch, means over the rows.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[tuple[float, float]] = field(default_factory=list)


def train_serially(
    job: Job,
    spec: RunSpec,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    *,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip_norm: float | None = None,
) -> Trained:
    """Train without Estafeta, on the same rows in the same order."""
    torch.manual_seed(spec.seed)
    model = job.model()
    inputs, target = (torch.as_tensor(array) for array in job.dataset())
    train, valid = split_rows(len(target), spec.validation, spec.seed)
    trained = Trained(model, optimizer([p for p in model.parameters() if p.requires_grad]))
    scheduler = schedule(trained.optimizer) if schedule else None
    steps = steps_per_epoch(len(train), spec.batch_size, spec.drop_last)
    for epoch in range(spec.epochs):
        total = rows = 0.0
        model.train()
        for step in range(epoch * steps, (epoch + 1) * steps):
            batch = train[
                batch_of(step, train_rows=len(train), batch_size=spec.batch_size, steps=steps, seed=spec.seed)
            ]
            loss = job.loss(model(inputs[batch]), target[batch])
            trained.optimizer.zero_grad()
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            trained.optimizer.step()
            total += float(loss.detach()) * len(batch)
            rows += len(batch)
        model.eval()
        with torch.no_grad():
            trained.losses.append((total / rows, float(job.loss(model(inputs[valid]), target[valid]))))
        if scheduler:
            scheduler.step()
    return trained
