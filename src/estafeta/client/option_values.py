"""Values of `-o key=value`: text becomes a value of the right type, which replaces a field of a record.

The options of a fork are here, too, since they change a run's spec alone. `options.py` applies options to a job.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from estafeta.errors import UsageError
from estafeta.job.checks import described, unknown, usage_error
from estafeta.job.optim import to_dict
from estafeta.job.recipe import Recipe
from estafeta.protocol.spec import MemoryMb, Role, RunSpec, TimeoutS

NUMBERS: Mapping[str, Any] = typing.get_type_hints(Recipe)
"""Types of the job's numbers, by name. The job and the spec check their ranges."""

OF_A_FORK = ("epochs", "micro_batch_size")
"""Names of the numbers that may change in the middle of a run: the others decide which rows make up a step."""

LIMITS: Mapping[str, Any] = dict.fromkeys(("rounds_per_invocation", "quorum"), Annotated[int, Ge(1)] | None)
"""Types of the run's limits, by name. By default there is no limit."""

ROLES: tuple[Role, ...] = ("worker", "merge", "control")
SETTINGS: Mapping[str, Any] = {"memory_mb": MemoryMb, "timeout_s": TimeoutS}
FUNCTION_NAMES = [f"{role}.{setting}" for role in ROLES for setting in SETTINGS]
"""Names of the functions' settings."""


def override_spec(spec: RunSpec, options: Mapping[str, Any]) -> tuple[RunSpec, dict[Role, dict[str, int]]]:
    """Apply overrides to the spec of a run that is to be forked.

    Args:
        spec: The spec.
        options: As in `options.override`.

    Returns:
        The changed spec, and the functions' settings: the spec's own, with their changes.

    Raises:
        UsageError: As `options.override`.
    """
    parts: dict[str, Any] = {"optimizer": spec.update_rule, "early_stopping": spec.early_stopping}
    changes: dict[str, Any] = {}
    settings = {role: {name: getattr(f, name) for name in SETTINGS} for role, f in spec.functions.items()}
    for name, text in options.items():
        head, _, rest = name.partition(".")
        value = parsed(text)
        if name in OF_A_FORK:
            changes[name] = fitted(name, value, NUMBERS[name])
        elif name in LIMITS:
            changes[name] = fitted(name, value, LIMITS[name])
        elif head in parts and rest:
            parts[head] = replaced(parts[head], rest, value, name)
        elif head in ROLES and rest in SETTINGS:
            settings[head][rest] = fitted(name, value, SETTINGS[rest])
        else:
            fields = [f"{part}.{known}" for part, record in parts.items() for known in names_in(record)]
            raise unknown(f"option {name!r}", name, [*OF_A_FORK, *fields, *LIMITS, *FUNCTION_NAMES])
    check_quorum(changes.get("quorum"), spec.workers)
    changes |= {**parts, "optimizer": to_dict(parts["optimizer"]), "options": as_text(options), "command": ()}
    try:  # model_copy would check nothing, and keep the cached update rule
        return RunSpec.model_validate({**spec.model_dump(), **changes}), settings
    except ValidationError as error:
        raise usage_error(error, RunSpec) from None


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
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in options.items()
    }


def fitted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as one of a type.

    Raises:
        UsageError: It does not fit the type.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        allowed = described(kind)
        raise UsageError(
            f"-o {name}={value!r} does not fit; it must be {allowed}", hint=f"set it to {allowed}"
        ) from None


def names_in(part: Any, prefix: str = "") -> Iterable[str]:
    """Return the names of a record's fields; those of a record in it follow a dot."""
    for entry in dataclasses.fields(part):
        value = getattr(part, entry.name)
        if dataclasses.is_dataclass(value):
            yield from names_in(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def replaced(part: Any, path: str, value: Any, name: str) -> Any:
    """Return a record in which one field is different.

    Args:
        part: The record.
        path: The field, or the field of a record in it, such as `schedule.length`.
        value: Its new value.
        name: The whole option, for messages.

    Raises:
        UsageError: There is no such field, or the value does not fit it.
    """
    head, _, rest = path.partition(".")
    if rest and dataclasses.is_dataclass(inner := getattr(part, head, None)):
        return dataclasses.replace(part, **{head: replaced(inner, rest, value, name)})
    hints = typing.get_type_hints(type(part))
    if rest or head not in {entry.name for entry in dataclasses.fields(part)}:
        outer = name.removesuffix(path)
        raise unknown(f"option {name!r}", name, [f"{outer}{known}" for known in names_in(part)])
    is_record = any(map(dataclasses.is_dataclass, typing.get_args(hints[head])))  # such as a schedule
    return dataclasses.replace(part, **{head: fitted(name, value, type(None) if is_record else hints[head])})
