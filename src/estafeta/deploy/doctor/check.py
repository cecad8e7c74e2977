"""A check, and the examination of a list of them: each passes, fails with its cure, or cannot be tried."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from estafeta.errors import EstafetaError

ELSEWHERE = "see docs/troubleshooting.md"
"""Cure of an error without a hint."""


@dataclass(frozen=True)
class Check:
    """A condition that training needs.

    Attributes:
        look: Function that returns its finding. It raises an `EstafetaError` with a hint, or an `OSError`, if the check
            fails.
        needs: Names of checks that must pass before.
    """

    name: str
    look: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        passed: Whether it passed; None if it could not be tried.
        cure: Cure, if it failed.
    """

    name: str
    passed: bool | None
    detail: str
    cure: str = ""


def examine(checks: Sequence[Check]) -> Iterator[Finding]:
    """Make checks in order."""
    passed: set[str] = set()
    for check in checks:
        lacking = [name for name in check.needs if name not in passed]
        if lacking:
            yield Finding(check.name, None, f"not tried: {' and '.join(lacking)} must pass first")
            continue
        try:
            detail = check.look()
        except EstafetaError as error:
            yield Finding(check.name, False, str(error), error.hint or ELSEWHERE)
        except OSError as error:
            yield Finding(check.name, False, str(error), "see the operating system's message")
        else:
            passed.add(check.name)
            yield Finding(check.name, True, detail)
