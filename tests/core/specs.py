"""Specs of runs, as the client makes them of jobs, and the code that goes with them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from estafeta.job.job import Job
from estafeta.job.optim import to_dict
from estafeta.job.recipe import numbers_of
from estafeta.protocol.spec import FunctionSettings, Role, RunSpec

from . import jobs

CODE = {"jobs.py": Path(jobs.__file__).read_text(encoding="utf-8")}
FUNCTIONS: dict[Role, FunctionSettings] = {
    role: FunctionSettings(name=f"estafeta-{role}", memory_mb=1769, timeout_s=900)
    for role in ("worker", "merge", "control")
}

_tokens = itertools.count()


def spec_of(name: str, job: Job | None = None, *, workers: int = 2, run: str = "r", **changes: Any) -> RunSpec:
    """Return the spec that the client makes of a job.

    Args:
        name: The job's name in `jobs.py`, or `module:name` elsewhere.
        job: The job, if it is elsewhere.
        workers: World size.
        run: Name of the run.
        changes: Fields of the spec that shall be different.
    """
    job = job or getattr(jobs, name)
    fields: dict[str, Any] = {
        "token": f"run-{next(_tokens):08d}",
        "run": run,
        "created_at": 0.0,
        "estafeta": "0",
        "job": name if ":" in name else f"jobs:{name}",
        "workers": workers,
        "optimizer": to_dict(job.optimizer),
        "early_stopping": job.stopping,
        "functions": FUNCTIONS,
        **numbers_of(job),
    }
    return RunSpec(**{**fields, **changes})
