"""Checks of what users write: kinds and ranges as pydantic annotations, and errors that say what is allowed.

Must not know: what any field means.
Invariant: no text of pydantic reaches a user. A refused value is a `UsageError` that names field, value and range.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from estafeta.errors import UsageError

CONFIG: Final = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)
"""Configuration of the records that users write. Their validators are built at first use, not at import."""


def not_allowed(allowed: str = "") -> PydanticCustomError:
    """Return the error of a validator; without `allowed` its text is taken from the field's type and range."""
    return PydanticCustomError("not_allowed", "it must be {allowed}", {"allowed": allowed})


def only(holds: Callable[[Any], bool], allowed: str) -> BeforeValidator:
    """Return an annotation that lets a value in if `holds` says so; `allowed` is that rule in words."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise not_allowed(allowed)
        return value

    return BeforeValidator(check)


def is_number(value: Any) -> bool:
    """Return whether `value` is a real number; text and bool are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(value: Any) -> float:
    if not is_number(value):
        raise not_allowed()
    return float(value)


def _whole(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise not_allowed()
    return int(value)


Number = Annotated[float, AllowInfNan(False), BeforeValidator(_number)]
"""Finite number, kept as a Python float: a NumPy scalar would decide the dtype of its products, and is not JSON."""
Rate = Annotated[Number, Ge(0)]
"""Number in [0, inf)."""
Fraction = Annotated[Number, Ge(0), Lt(1)]
"""Number in [0, 1)."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""Whole number, kept as a Python int."""
Count = Annotated[Whole, Ge(1)]
"""Whole number of at least 1."""
Flag = Annotated[bool, only(lambda value: isinstance(value, bool), "True or False")]
"""True or False, and no number."""


def _explain(cls: type, value: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        raise usage_error(error, cls, cls.__name__) from None


explained: Final = model_validator(mode="wrap")(_explain)
"""Validator that a record takes as a class attribute, so that it raises `UsageError` alone."""


def usage_error(error: ValidationError, record: Any, owner: str = "") -> UsageError:
    """Return the first thing that pydantic found in a model or dataclass `record`, as an error for the user.

    The message puts the name `owner` before the field's.
    """
    first, *_ = found = error.errors(include_url=False)
    kind, place, value = first["type"], first["loc"], first["input"]
    fields: Mapping[str, FieldInfo] = record.__pydantic_fields__
    name = _name_at(place[0], record) if place else ""
    if kind in ("missing", "missing_argument"):
        missing = ", ".join(str(each["loc"][0]) for each in found if each["type"] == kind)
        return UsageError(f"{record.__name__} lacks {missing}", hint=f"give {record.__name__} a value for each")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown(f"field {name!r} of {record.__name__}", name, fields)
    if name not in fields:
        hint = f"write name=value, with the names {', '.join(fields)}"
        return UsageError(f"{record.__name__} does not take {shown(value)}", hint=hint)
    allowed = first.get("ctx", {}).get("allowed") or described(fields[name].annotation, [fields[name]])
    message = f"{owner}{'.' if owner else ''}{name} is {shown(value)}; it must be {allowed}"
    return UsageError(message, hint=f"set {name} to {allowed}")


def _name_at(place: int | str, record: Any) -> str:
    """Return the field that an error is about: pydantic numbers values that were given without a name."""
    if isinstance(place, str):
        return place
    names = [field.name for field in dataclasses.fields(record) if not field.kw_only]
    return names[place] if place < len(names) else ""


def unknown(what: str, given: str, valid: Iterable[str]) -> UsageError:
    """Return the error for a name that is not known; its hint has the nearest valid name, and all of them."""
    by_lower = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1)
    guess = f"did you mean {by_lower[close[0]]}? " if close else ""
    listing = f"valid: {', '.join(by_lower.values())}" if by_lower else "there is nothing to set here"
    return UsageError(f"Unknown {what}", hint=guess + listing)


def described(kind: Any, constraints: Iterable[Any] = ()) -> str:
    """Return what values a type and its constraints allow, in words, such as `a number in [0, 1)`."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        return described(arguments[0], [*arguments[1:], *constraints])
    if typing.get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(described(part, constraints) for part in arguments)
    flat = [each for one in constraints for each in (one.metadata if isinstance(one, FieldInfo) else [one])]
    texts = [one.description for one in constraints if isinstance(one, FieldInfo) and one.description]
    names: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    plain = names.get(kind, "None" if kind is type(None) else f"a {getattr(kind, '__name__', kind)}")
    return texts[0] if texts else plain + (_interval(flat) if flat and kind in (int, float) else "")


def _interval(constraints: Iterable[Any]) -> str:
    low, high = "(-inf", "inf)"
    for one in constraints:
        match one:
            case Ge(bound):
                low = f"[{bound}"
            case Gt(bound):
                low = f"({bound}"
            case Le(bound):
                high = f"{bound}]"
            case Lt(bound):
                high = f"{bound})"
    return f" in {low}, {high}"


def shown(value: Any) -> str:
    """Return a value as a message names it: numbers and text as they are, all else by its kind."""
    items = value if isinstance(value, list | tuple) and len(value) <= 4 else [value]
    if isinstance(value, str | None) or all(isinstance(item, Real) for item in items):
        return repr(value)
    return value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
