"""Settings that users write down: frozen records with checked ranges, and a name and fields in JSON.

Role: what optimisers and schedules have in common as records.
Must not know: what any setting means.
Invariant: `build(…, to_dict(record)) == record`, also through JSON.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Real
from typing import Any, TypeVar, get_type_hints

from estafeta.errors import UsageError

_Kind = TypeVar("_Kind")


def require(record: object, name: str, valid: bool, allowed: str) -> None:
    """Refuse the value of a setting.

    Args:
        record: The dataclass instance that holds the setting.
        name: Its field.
        valid: Whether its value may stay.
        allowed: What it may be, in words.

    Raises:
        UsageError: If not `valid`; the message names the field, the value and what is allowed.
    """
    if not valid:
        raise UsageError(
            f"{type(record).__name__}: {name}={getattr(record, name)!r}, but it must be {allowed}",
            hint=f"set {name} to {allowed}",
        )


def require_numbers(record: object, interval: str, *names: str) -> None:
    """Refuse numbers outside `interval`, such as `"[0, 1)"`, and keep the others as Python floats.

    A NumPy scalar would decide the dtype of what it is multiplied with, and is not JSON; a float does neither harm.

    Raises:
        UsageError: If the value of one of the fields is no number or lies outside.
    """
    for name in names:
        value = getattr(record, name)
        require(record, name, is_within(value, interval), f"a number in {interval}")
        object.__setattr__(record, name, float(value))


def require_counts(record: object, *names: str) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        UsageError: If the value of one of the fields is something else.
    """
    for name in names:
        value = getattr(record, name)
        require(record, name, type(value) is int and value >= 1, "a whole number in [1, inf)")


def is_within(value: object, interval: str) -> bool:
    """Tell whether `value` is a real number inside `interval`, such as `"[0, 1)"`; NaN and bool never are."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    number = float(value)
    return low < number < high or (interval[0] == "[" and number == low) or (interval[-1] == "]" and number == high)


def fields_of(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, or of an instance, and the type of each, such as `tuple[float, float]`."""
    hints = get_type_hints(settings if isinstance(settings, type) else type(settings))
    return {setting.name: hints[setting.name] for setting in fields(settings)}


def to_dict(settings: Any) -> dict[str, Any]:
    """Return the name and all fields in the types of JSON, such as `{"name": "SGD", "lr": 0.1, …}`."""
    return {"name": type(settings).__name__} | {name: _plain(getattr(settings, name)) for name in fields_of(settings)}


def build(role: str, kinds: Mapping[str, type[_Kind]], nested: Mapping[str, type], data: Mapping[str, Any]) -> _Kind:
    """Return the instance that `to_dict` described; fields left out take their defaults.

    Args:
        role: What it is, for messages.
        kinds: The classes it may be, by name.
        nested: The classes, by name, of what its fields hold as mappings.
        data: Its name and fields.

    Raises:
        UsageError: If a name or a field is unknown, a field that has no default is missing, or a value is refused.
    """
    values = dict(data)
    name = str(values.pop("name", None))
    if name not in kinds:
        raise _unknown(f"{role} {name!r}", name, kinds)
    kind = kinds[name]
    known = fields_of(kind)
    for key, value in values.items():
        if key not in known:
            raise _unknown(f"field {key!r} of {name}", key, known)
        if isinstance(value, Mapping):
            values[key] = build(key, nested, nested, value)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise UsageError(f"{name} lacks {', '.join(missing)}", hint=f"give {name} a value for each")
    return kind(**values)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _unknown(what: str, given: str, valid: Mapping[str, object]) -> UsageError:
    by_lower = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1)
    guess = f"did you mean {by_lower[close[0]]}? " if close else ""
    return UsageError(f"unknown {what}", hint=f"{guess}valid: {', '.join(valid)}")
