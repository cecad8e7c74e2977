"""Estafeta trains machine-learning models on AWS Lambda with no server.

import estafeta

job = estafeta.Job(model=…, loss=…, optimizer=estafeta.AdamW(lr=3e-3), dataset="digits", epochs=20)
run = job.train(workers=4)
run.history, run.cost, run.load_model()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estafeta import metrics
    from estafeta.client.launch import train
    from estafeta.client.run import Run
    from estafeta.errors import EnvironmentProblem, EstafetaError, RunFailed, RunNotFound, UsageError
    from estafeta.job.job import Job
    from estafeta.job.optim import SGD, Adagrad, Adam, AdamW, RMSprop
    from estafeta.job.schedules import Cosine, StepLR, Warmup
    from estafeta.job.stopping import EarlyStopping

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Cosine",
    "EarlyStopping",
    "EnvironmentProblem",
    "EstafetaError",
    "Job",
    "RMSprop",
    "Run",
    "RunFailed",
    "RunNotFound",
    "StepLR",
    "UsageError",
    "Warmup",
    "metrics",
    "train",
]

_HOME = {
    "errors": ("EnvironmentProblem", "EstafetaError", "RunFailed", "RunNotFound", "UsageError"),
    "job.stopping": ("EarlyStopping",),
    "job.job": ("Job",),
    "client.launch": ("train",),
    "job.optim": ("SGD", "Adagrad", "Adam", "AdamW", "RMSprop"),
    "client.run": ("Run",),
    "job.schedules": ("Cosine", "StepLR", "Warmup"),
}
"""The module of each public name. They are imported when they are asked for: neither a cold function nor
`estafeta --help` pays for what it does not need."""

_LAZY = {name: f"estafeta.{module}" for module, names in _HOME.items() for name in names}
_LAZY["metrics"] = "estafeta.metrics"


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'estafeta' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = module if name == "metrics" else getattr(module, name)
    globals()[name] = value
    return value
