"""Races of two processes in one directory, and the report of each.

    python -m conformance.races DIR RACE    runs the race as number 1, for a test that is number 0

Each race is a function of a `Lane`; it returns something that JSON can say. Nothing is judged here: the tests in
`test_two_machines.py` compare the reports of both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from estafeta.store.store import Store, new_token

from .meeting import QUICK, Meeting

LESS_THAN_A_MEMORY_S = 20.0
"""Seconds; fewer than the 30 to 60 for which an NFS client may remember that a name was absent."""

FILLING = b"0123456789abcdef" * 4096
"""Padding that makes a file large enough to be seen unfinished."""


@dataclass(frozen=True)
class Lane:
    """The means of one of the two processes.

    Attributes:
        store: The store.
        meeting: Its meeting with the other process.
        names: The directory that the race is about.
        me: 0 or 1.
    """

    store: Store
    meeting: Meeting
    names: str
    me: int

    def remember_absence(self, name: str) -> None:
        """Look a name up, so that an NFS client remembers that it is not there."""
        os.path.exists(f"{self.store.root}/{self.names}/{name}")


def publish(lane: Lane) -> list[dict[str, Any]]:
    """Both publish the same 100 names, and each reads the published file at once."""
    reports = []
    for number in range(100):
        lane.remember_absence(f"{number}")
        token = new_token()
        content = [f"{token}\n".encode(), FILLING]
        lane.meeting.together(number)
        won = lane.store.publish(f"{lane.names}/{number}", content, token)
        first, _, rest = lane.store.read(f"{lane.names}/{number}").partition(b"\n")
        reports.append({"won": won, "mine": token, "seen": first.decode(), "complete": rest == FILLING})
    return reports


def last_arrival(lane: Lane) -> list[bool]:
    """Both publish a name of their own and then look whether both are there, 50 times."""
    noticed = []
    for number in range(50):
        both = {f"{number}.0", f"{number}.1"}
        for name in both:
            lane.remember_absence(name)
        lane.meeting.together(number)
        lane.store.publish(f"{lane.names}/{number}.{lane.me}", [b"x"], "x")
        noticed.append(both <= lane.store.list(lane.names))
    return noticed


def wait(lane: Lane) -> list[bool]:
    """In turn, one publishes a name that the other remembers as absent and waits for."""
    seen = []
    for number in range(20):
        name = f"{number}"
        published = {name}.issubset
        lane.remember_absence(name)
        lane.meeting.together(number)
        if number % 2 == lane.me:
            lane.store.publish(f"{lane.names}/{name}", [b"x"], "x")
        names = lane.store.wait(lane.names, published, timeout_s=LESS_THAN_A_MEMORY_S, backoff=QUICK)
        seen.append(names is not None and lane.store.read(f"{lane.names}/{name}") == b"x")
    return seen


def claim(lane: Lane) -> list[list[bool]]:
    """Both claim 30 generations of one duty, each generation twice."""
    held = []
    for generation in range(30):
        token = new_token()
        lane.meeting.together(generation)
        held.append([lane.store.claim(lane.names, "duty", generation=generation, token=token) for _ in range(2)])
    return held


def move(lane: Lane) -> list[dict[str, Any]]:
    """Both move the same 30 files away, each to a name of its own."""
    reports = []
    for number in range(30):
        lane.store.publish(f"{lane.names}/{number}", [b"x"], "x")
        lane.meeting.together(number)
        moved = lane.store.move(f"{lane.names}/{number}", f"{lane.names}/{number}-to-{lane.me}")
        lane.meeting.together(f"{number}-moved")
        left = {name for name in lane.store.list(lane.names) if name.split("-")[0] == str(number)}
        reports.append({"moved": moved, "left": sorted(left)})
    return reports


def replace(lane: Lane) -> dict[str, int]:
    """One replaces a file 150 times while the other reads it all the time."""
    path, end = f"{lane.names}/beat", "end"
    lines = 4000
    if lane.me == 0:
        lane.store.replace(path, [b"%08d\n" % 0 * lines])
    lane.meeting.together("begin")
    if lane.me == 0:
        for number in range(1, 150):
            lane.store.replace(path, [b"%08d\n" % number * lines])
        lane.store.publish(f"{lane.names}/{end}", [b"x"], "x")
        return {"reads": 0, "torn": 0}
    reads = torn = 0
    while not lane.store.exists(f"{lane.names}/{end}"):
        content = lane.store.read(path)
        reads += 1
        torn += content != content[:9] * lines
    return {"reads": reads, "torn": torn}


RACES: dict[str, Callable[[Lane], Any]] = {
    race.__name__: race for race in (publish, last_arrival, wait, claim, move, replace)
}


def run(root: str, race: str, me: int, *, patience_s: float) -> list[Any]:
    """Run a race as one of two; returns the reports of 0 and 1."""
    os.makedirs(root, exist_ok=True)
    store = Store(root)
    names = f"{race}/names"
    store.make_directories(names)
    meeting = Meeting(store, f"{race}/meeting", me, patience_s)
    report = RACES[race](Lane(store, meeting, names, me))
    return meeting.exchange("report", report)


if __name__ == "__main__":
    _, directory, name = sys.argv
    run(directory, name, 1, patience_s=60)
