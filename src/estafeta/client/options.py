"""`-o key=value`: a job, its callables' arguments and the functions' settings, changed for one run.

epochs, batch_size …            the job's own numbers
optimizer.lr, early_stopping.patience …   fields of its parts
model.NAME, dataset.NAME …      keyword arguments of its callables
worker.memory_mb, worker.timeout_s …      settings of the functions
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from estafeta.errors import UsageError
from estafeta.job.job import Job
from estafeta.job.settings import to_dict
from estafeta.protocol.spec import MemoryMb, Role, RunSpec, TimeoutS

NUMBERS: Mapping[str, type] = {
    "epochs": int,
    "batch_size": int,
    "micro_batch_size": int,
    "drop_last": bool,
    "validation": float,
    "seed": int,
    "window_mb": int,
}
"""The job's own fields that can be changed."""

OF_A_FORK: Mapping[str, Any] = {"epochs": Annotated[int, Field(ge=1)], "micro_batch_size": Annotated[int, Field(ge=1)]}
"""Those that can be changed in the middle of a run: the others say which rows make up a step."""

COUNTS = {"rounds_per_invocation": "a worker does at least 1", "quorum": "a round needs at least 1 contribution"}
"""Limits of the run, none by default, and why they are not 0."""

PARTS = ("optimizer", "early_stopping")
CALLABLES = ("model", "dataset", "valid_dataset")
ROLES: tuple[Role, ...] = ("worker", "merge", "control")
SETTINGS: Mapping[str, Any] = {"memory_mb": MemoryMb, "timeout_s": TimeoutS}


@dataclass
class Overridden:
    """A job with its overrides applied.

    Attributes:
        job: The changed job.
        arguments: Keyword arguments by callable.
        settings: Changed settings by function.
        rounds_per_invocation: After how many rounds a resident worker hands over at the latest.
        quorum: With how many contributions a round may close when the others are late.
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
        value = _parse(text)
        if name in NUMBERS:
            result.job = dataclasses.replace(result.job, **{name: _fit(name, value, NUMBERS[name])})
        elif name in COUNTS:
            setattr(result, name, _count(name, value))
        elif head in PARTS and rest and _part(result.job, head) is not None:
            result.job = dataclasses.replace(result.job, **{head: _replace(_part(result.job, head), rest, value, name)})
        elif head in CALLABLES and rest:
            result.arguments.setdefault(head, {})[_argument(getattr(job, head), rest, name)] = value
        elif head in ROLES and rest in SETTINGS:
            result.settings.setdefault(head, {})[rest] = _fit(name, value, SETTINGS[rest])
        else:
            raise _unknown(name, known_names(result.job))
    return result


def override_spec(spec: RunSpec, options: Mapping[str, Any]) -> tuple[RunSpec, dict[Role, dict[str, int]]]:
    """Apply overrides to the spec of a run that is to be forked.

    Args:
        spec: The spec.
        options: As in `override`.

    Returns:
        The changed spec, and the functions' settings: the spec's own, with their changes.

    Raises:
        UsageError: As `override`.
    """
    parts: dict[str, Any] = {"optimizer": spec.update_rule, "early_stopping": spec.early_stopping}
    changes: dict[str, Any] = {}
    settings = {role: {name: getattr(f, name) for name in SETTINGS} for role, f in spec.functions.items()}
    for name, text in options.items():
        head, _, rest = name.partition(".")
        value = _parse(text)
        if name in OF_A_FORK:
            changes[name] = _fit(name, value, OF_A_FORK[name])
        elif name in COUNTS:
            changes[name] = _count(name, value)
        elif head in parts and rest:
            parts[head] = _replace(parts[head], rest, value, name)
        elif head in ROLES and rest in SETTINGS:
            settings[head][rest] = _fit(name, value, SETTINGS[rest])
        else:
            fields = [f"{part}.{known}" for part, record in parts.items() for known in _fields(record)]
            functions = [f"{role}.{setting}" for role in ROLES for setting in SETTINGS]
            raise _unknown(name, [*OF_A_FORK, *fields, *COUNTS, *functions])
    check_quorum(changes.get("quorum"), spec.workers)
    changes.update(optimizer=to_dict(parts["optimizer"]), early_stopping=parts["early_stopping"])
    return RunSpec.model_validate({**spec.model_dump(), **changes}), settings  # a copy would keep the old rule


def known_names(job: Job) -> list[str]:
    """Every name that can be overridden in a job."""
    names = list(NUMBERS)
    for part in PARTS:
        if (value := _part(job, part)) is not None:
            names += [f"{part}.{name}" for name in _fields(value)]
    for role in CALLABLES:
        names += [f"{role}.{name}" for name in _parameters(getattr(job, role)) or ()]
    return [*names, *COUNTS, *(f"{role}.{setting}" for role in ROLES for setting in SETTINGS)]


def check_quorum(quorum: int | None, workers: int) -> None:
    """Refuse a quorum that no round can reach.

    Raises:
        UsageError: It is more than there are workers.
    """
    if quorum is not None and quorum > workers:
        raise UsageError(
            f"quorum is {quorum}, but there are {workers} workers",
            hint=f"-o quorum={max(1, workers - 1)} leaves out the slowest, or --workers {quorum}",
        )


def _count(name: str, value: Any) -> int | None:
    count: int | None = _fit(name, value, int | None)
    if count is not None and count < 1:
        raise UsageError(f"{name} is {count}; {COUNTS[name]}", hint=f"-o {name}=1 or more, or leave it out")
    return count


def _part(job: Job, name: str) -> Any:
    return job.stopping if name == "early_stopping" else job.optimizer


def _fields(part: Any, prefix: str = "") -> Iterable[str]:
    for entry in dataclasses.fields(part):
        value = getattr(part, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def _replace(part: Any, path: str, value: Any, name: str) -> Any:
    head, _, rest = path.partition(".")
    if rest and dataclasses.is_dataclass(inner := getattr(part, head, None)):
        return dataclasses.replace(part, **{head: _replace(inner, rest, value, name)})
    hints = typing.get_type_hints(type(part))
    if rest or head not in {entry.name for entry in dataclasses.fields(part)}:
        outer = name.removesuffix(path)
        raise _unknown(name, [f"{outer}{known}" for known in _fields(part)])
    return dataclasses.replace(part, **{head: _fit(name, value, hints[head])})


def _argument(function: Any, argument: str, name: str) -> str:
    known = _parameters(function)
    if known is not None and argument not in known:
        head = name.partition(".")[0]
        raise _unknown(name, [f"{head}.{parameter}" for parameter in known])
    return argument


def _parameters(function: Callable[..., Any] | str | None) -> list[str] | None:
    """Names of a callable's keyword parameters; None if it takes any."""
    if function is None or isinstance(function, str):
        return []
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _parse(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return None if text.lower() == "none" else text


def _fit(name: str, value: Any, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UsageError(
            f"{name}={value!r} does not fit: {error.errors()[0]['msg'].lower()}", hint=f"write -o {name}=… anew"
        ) from error


def _unknown(name: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(name, known, 1)
    suggestion = f"did you mean {close[0]}? " if close else ""
    listing = f"known are {', '.join(known)}" if known else "there is nothing to set here"
    return UsageError(f"no option is named {name!r}", hint=suggestion + listing)
