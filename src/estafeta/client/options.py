"""`-o key=value`: a job, its callables' arguments and the functions' settings, changed for one run.

epochs, batch_size …            the job's own numbers
optimizer.lr, early_stopping.patience …   fields of its parts
model.NAME, dataset.NAME …      keyword arguments of its callables
worker.memory_mb, worker.timeout_s …      settings of the functions

A fork takes fewer of them, since it changes a run's spec alone.
"""

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from estafeta.errors import UsageError
from estafeta.job.checks import described, unknown, usage_error
from estafeta.job.job import Job
from estafeta.job.optim import to_dict
from estafeta.job.recipe import Recipe
from estafeta.protocol.spec import MemoryMb, Role, RunSpec, TimeoutS

NUMBERS: Mapping[str, Any] = typing.get_type_hints(Recipe)
"""Types of the job's numbers, by name. The job and the spec check their ranges."""
OF_A_FORK = ("epochs", "micro_batch_size")
"""Names of the numbers that may change in the middle of a run: the others decide which rows make up a step."""
LIMITS: Mapping[str, Any] = dict.fromkeys(("rounds_per_invocation", "quorum"), Annotated[int, Ge(1)] | None)
"""Types of the run's limits, by name. By default there is no limit."""
CALLABLES = ("model", "dataset", "valid_dataset")
ROLES: tuple[Role, ...] = ("worker", "merge", "control")
SETTINGS: Mapping[str, Any] = {"memory_mb": MemoryMb, "timeout_s": TimeoutS}


@dataclass(frozen=True)
class Changes:
    """Options, read and sorted by what they change.

    They change numbers of the job, limits of the run, parts of the job (`optimizer`, `early_stopping`), keyword
    arguments of callables, and settings of functions, each by name.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[Role, dict[str, int]] = field(default_factory=dict)


def override(job: Job, options: Mapping[str, Any]) -> tuple[Job, Changes]:
    """Apply overrides to a job; text is read as JSON where it is JSON (`5`, `1e-3`, `true`, `null`).

    Raises:
        UsageError: A name is not known (the message lists those that are), or a value does not fit.
    """
    changes = _sorted(options, *_changeable(job))
    return dataclasses.replace(job, **changes.numbers, **changes.parts), changes


def override_spec(spec: RunSpec, options: Mapping[str, Any]) -> tuple[RunSpec, dict[Role, dict[str, int]]]:
    """Apply overrides to the spec of a run that is to be forked; raises as `override`.

    Returns:
        The changed spec, and the functions' settings: the spec's own, with their changes.
    """
    parts: dict[str, Any] = {"optimizer": spec.update_rule, "early_stopping": spec.early_stopping}
    changes = _sorted(options, OF_A_FORK, parts, {})
    check_quorum(changes.limits.get("quorum"), spec.workers)
    parts |= changes.parts
    fields = {
        **spec.model_dump(),
        **changes.numbers,
        **changes.limits,
        **parts,
        "optimizer": to_dict(parts["optimizer"]),
    }
    settings = {
        role: {name: getattr(function, name) for name in SETTINGS} | changes.settings.get(role, {})
        for role, function in spec.functions.items()
    }
    try:  # model_copy would check nothing, and keep the cached update rule
        return RunSpec.model_validate({**fields, "options": as_text(options), "command": ()}), settings
    except ValidationError as error:
        raise usage_error(error, RunSpec) from None


def known_names(job: Job) -> list[str]:
    """Return every name that can be overridden in a job."""
    return _known_names(*_changeable(job))


def check_quorum(quorum: int | None, workers: int) -> None:
    """Raise `UsageError` if a round cannot reach a quorum, since there are fewer workers."""
    if quorum is not None and quorum > workers:
        raise UsageError(
            f"quorum is {quorum}, but there are {workers} workers",
            hint=f"-o quorum={max(1, workers - 1)} leaves out the slowest, or --workers {quorum}",
        )


def parsed(text: Any) -> Any:
    """Return the value that a text is in JSON, or the text itself; `none` is None."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return None if text.lower() == "none" else text


def as_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as `-o` takes them: a value that is no text becomes JSON."""
    return {name: text if isinstance(text, str) else json.dumps(text, default=str) for name, text in options.items()}


def _changeable(job: Job) -> tuple[Iterable[str], dict[str, Any], dict[str, Any]]:
    """Return the names of a job's numbers, and its parts and callables by name."""
    parts = {"optimizer": job.optimizer, "early_stopping": job.stopping}
    return NUMBERS, parts, {name: getattr(job, name) for name in CALLABLES}


def _sorted(
    options: Mapping[str, Any], numbers: Iterable[str], parts: Mapping[str, Any], callables: Mapping[str, Any]
) -> Changes:
    """Return the options as changes of these numbers, parts and callables."""
    changes = Changes()
    for name, text in options.items():
        head, _, rest = name.partition(".")
        value = parsed(text)
        if name in numbers:
            changes.numbers[name] = _fitted(name, value, NUMBERS[name])
        elif name in LIMITS:
            changes.limits[name] = _fitted(name, value, LIMITS[name])
        elif head in parts and rest:
            changes.parts[head] = _replaced(changes.parts.get(head, parts[head]), rest, value, name)
        elif head in callables and rest:
            known = _parameters(callables[head])
            if known is not None and rest not in known:
                raise unknown(f"option {name!r}", name, [f"{head}.{parameter}" for parameter in known])
            changes.arguments.setdefault(head, {})[rest] = value
        elif head in ROLES and rest in SETTINGS:
            changes.settings.setdefault(head, {})[rest] = _fitted(name, value, SETTINGS[rest])
        else:
            raise unknown(f"option {name!r}", name, _known_names(numbers, parts, callables))
    return changes


def _known_names(numbers: Iterable[str], parts: Mapping[str, Any], callables: Mapping[str, Any]) -> list[str]:
    fields = [f"{part}.{name}" for part, record in parts.items() for name in _names_in(record)]
    arguments = [f"{role}.{name}" for role, function in callables.items() for name in _parameters(function) or ()]
    return [*numbers, *fields, *arguments, *LIMITS, *(f"{role}.{setting}" for role in ROLES for setting in SETTINGS)]


def _parameters(function: Callable[..., Any] | str | None) -> list[str] | None:
    """Return the names of a callable's keyword parameters; None if it takes any."""
    if function is None or isinstance(function, str):
        return []
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _fitted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as one of a type."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        allowed = described(kind)
        message = f"-o {name}={value!r} does not fit; it must be {allowed}"
        raise UsageError(message, hint=f"set it to {allowed}") from None


def _names_in(part: Any, prefix: str = "") -> Iterable[str]:
    """Return the names of a record's fields; those of a record in it follow a dot."""
    for entry in dataclasses.fields(part):
        value = getattr(part, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _names_in(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def _replaced(part: Any, path: str, value: Any, name: str) -> Any:
    """Return a record in which one field is different, or a field of a record in it, such as `schedule.length`."""
    head, _, rest = path.partition(".")
    if rest and dataclasses.is_dataclass(inner := getattr(part, head, None)):
        return dataclasses.replace(part, **{head: _replaced(inner, rest, value, name)})
    hints = typing.get_type_hints(type(part))
    if rest or head not in {entry.name for entry in dataclasses.fields(part)}:
        outer = name.removesuffix(path)
        raise unknown(f"option {name!r}", name, [f"{outer}{known}" for known in _names_in(part)])
    is_record = any(map(dataclasses.is_dataclass, typing.get_args(hints[head])))  # such as a schedule
    return dataclasses.replace(part, **{head: _fitted(name, value, type(None) if is_record else hints[head])})
