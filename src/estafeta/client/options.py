"""`-o key=value`: a job, its callables' arguments and the functions' settings, changed for one run.

epochs, batch_size …            the job's own numbers
optimizer.lr, early_stopping.patience …   fields of its parts
model.NAME, dataset.NAME …      keyword arguments of its callables
worker.memory_mb, worker.timeout_s …      settings of the functions
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from estafeta.client.option_values import (
    FUNCTION_NAMES,
    LIMITS,
    NUMBERS,
    ROLES,
    SETTINGS,
    fitted,
    names_in,
    parsed,
    replaced,
)
from estafeta.job.checks import unknown
from estafeta.job.job import Job
from estafeta.protocol.spec import Role

PARTS = ("optimizer", "early_stopping")
CALLABLES = ("model", "dataset", "valid_dataset")


@dataclass
class Overridden:
    """A job with its overrides applied.

    Attributes:
        job: The changed job.
        arguments: Keyword arguments by callable.
        settings: Changed settings by function.
        rounds_per_invocation: Most rounds of a resident worker before it hands over.
        quorum: Number of contributions with which a round may close when the others are late.
    """

    job: Job
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[Role, dict[str, int]] = field(default_factory=dict)
    rounds_per_invocation: int | None = None
    quorum: int | None = None


def override(job: Job, options: Mapping[str, Any]) -> Overridden:
    """Apply overrides to a job.

    Args:
        job: The job.
        options: Values by name; text is read as JSON where it is JSON (`5`, `1e-3`, `true`, `null`).

    Raises:
        UsageError: A name is not known (the message lists those that are), or a value does not fit.
    """
    result = Overridden(job)
    for name, text in options.items():
        head, _, rest = name.partition(".")
        value = parsed(text)
        if name in NUMBERS:
            result.job = dataclasses.replace(result.job, **{name: fitted(name, value, NUMBERS[name])})
        elif name in LIMITS:
            setattr(result, name, fitted(name, value, LIMITS[name]))
        elif head in PARTS and rest:
            result.job = dataclasses.replace(result.job, **{head: replaced(_part(result.job, head), rest, value, name)})
        elif head in CALLABLES and rest:
            result.arguments.setdefault(head, {})[_argument(getattr(job, head), rest, name)] = value
        elif head in ROLES and rest in SETTINGS:
            result.settings.setdefault(head, {})[rest] = fitted(name, value, SETTINGS[rest])
        else:
            raise unknown(f"option {name!r}", name, known_names(result.job))
    return result


def known_names(job: Job) -> list[str]:
    """Return every name that can be overridden in a job."""
    fields = [f"{part}.{name}" for part in PARTS for name in names_in(_part(job, part))]
    arguments = [f"{role}.{name}" for role in CALLABLES for name in _parameters(getattr(job, role)) or ()]
    return [*NUMBERS, *fields, *arguments, *LIMITS, *FUNCTION_NAMES]


def _part(job: Job, name: str) -> Any:
    return job.stopping if name == "early_stopping" else job.optimizer


def _argument(function: Any, argument: str, name: str) -> str:
    known = _parameters(function)
    if known is not None and argument not in known:
        head = name.partition(".")[0]
        raise unknown(f"option {name!r}", name, [f"{head}.{parameter}" for parameter in known])
    return argument


def _parameters(function: Callable[..., Any] | str | None) -> list[str] | None:
    """Return the names of a callable's keyword parameters; None if it takes any."""
    if function is None or isinstance(function, str):
        return []
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
