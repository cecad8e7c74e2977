"""The events of a simulated run, for a person to read: virtual time, actor, call, outcome, a line each."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

QUIET = frozenset({"listdir", "open"})
"""Calls that change nothing. They are left out where they succeed, but for the last lines."""

TAIL = 25
"""Lines at the end that are told in full."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    at: float
    who: str
    call: str
    what: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.at:10.3f} s  {self.who:<34} {self.call:<8} {self.what:<44} {self.outcome}".rstrip()


class Journal:
    """Takes notes.

    Args:
        folder: The run's folder, left out of paths.
    """

    def __init__(self, folder: str) -> None:
        self._folder = f"{folder}/"
        self._notes: list[tuple[float, str, str, str, str]] = []

    def note(self, at: float, who: str, call: str, what: str, outcome: str = "") -> None:
        """Take a note."""
        self._notes.append((at, who, call, what, outcome))

    def __len__(self) -> int:
        return len(self._notes)

    @property
    def digest(self) -> str:
        """SHA-256 of everything."""
        return hashlib.sha256("\n".join(map(repr, self._notes)).encode()).hexdigest()

    def tell(self, whole: bool = False) -> str:
        """The history as text: all of it, or what changed something, and the end."""
        lines = [
            Line(at, who, call, what.replace(self._folder, ""), outcome) for at, who, call, what, outcome in self._notes
        ]
        if not whole:
            told = [line for line in lines[:-TAIL] if line.outcome or line.call not in QUIET]
            lines = [*(line for line in told if "/.tmp-" not in line.what or line.outcome), *lines[-TAIL:]]
        return "\n".join(_without_repetitions(lines))


def _without_repetitions(lines: Iterable[Line]) -> Iterable[str]:
    """Lines that differ in time only, one after the other, are told once."""
    for _, group in itertools.groupby(lines, lambda line: (line.who, line.call, line.what, line.outcome)):
        same = list(group)
        times = f"  (and {len(same) - 1} times more until {same[-1].at:.3f} s)" if len(same) > 1 else ""
        yield f"{same[0]}{times}"
