"""Estafeta trains machine-learning models on AWS Lambda with no server.

import estafeta

job = estafeta.Job(model=…, loss=…, optimizer=estafeta.AdamW(lr=3e-3), dataset="digits", epochs=20)
run = job.train(workers=4)
run.history, run.cost, run.load_model()
estafeta.Run("last").load_model()  # in another process, on another day
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estafeta import metrics
    from estafeta.client import datasets
    from estafeta.client.connect import attach
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
    "attach",
    "datasets",
    "metrics",
    "train",
]

_HOME = {
    "errors": ("EnvironmentProblem", "EstafetaError", "RunFailed", "RunNotFound", "UsageError"),
    "job.stopping": ("EarlyStopping",),
    "job.job": ("Job",),
    "client.connect": ("attach",),
    "client.launch": ("train",),
    "job.optim": ("SGD", "Adagrad", "Adam", "AdamW", "RMSprop"),
    "client.run": ("Run",),
    "job.schedules": ("Cosine", "StepLR", "Warmup"),
}
"""Names by the module that defines them. Each is imported when it is asked for: neither a cold function nor
`estafeta --help` pays for what it does not need."""
_MODULES = {"datasets": "estafeta.client.datasets", "metrics": "estafeta.metrics"}
"""Public modules by their names."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(_MODULES[name])
    elif home := next((module for module, names in _HOME.items() if name in names), None):
        value = getattr(importlib.import_module(f"estafeta.{home}"), name)
    else:
        raise AttributeError(f"module 'estafeta' has no attribute {name!r}")
    globals()[name] = value
    return value
