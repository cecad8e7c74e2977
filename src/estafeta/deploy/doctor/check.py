"""What a check is, and how a list of them is gone through: each passes, fails with its cure, or cannot be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from estafeta.errors import EstafetaError

ELSEWHERE = "see docs/troubleshooting.md"
"""The cure where an error knows none."""


@dataclass(frozen=True)
class Check:
    """Something that has to be right.

    Attributes:
        name: What is looked at.
        look: Says what was found. It raises an `EstafetaError` with its hint, or an `OSError`, if that will not do.
        needs: Names of checks without which there is nothing to look at.
    """

    name: str
    look: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a check has come to.

    Attributes:
        name: Of the check.
        passed: None if it could not be tried.
        detail: What was found.
        cure: What to do, if it failed.
    """

    name: str
    passed: bool | None
    detail: str
    cure: str = ""


def examine(checks: Sequence[Check]) -> Iterator[Finding]:
    """Go through checks in order."""
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
            yield Finding(check.name, False, str(error), "see what the operating system says about it")
        else:
            passed.add(check.name)
            yield Finding(check.name, True, detail)
