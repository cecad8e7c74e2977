"""A run's log as lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from estafeta.cli.words import log as words
from estafeta.cli.words.log import Wanted, batches, lines_of
from estafeta.client.logbook import Entry
from estafeta.protocol.spec import Role

REPORT = "REPORT RequestId: a\tDuration: 6.5 ms\tBilled Duration: 7 ms\tMemory Size: 1769 MB\tMax Memory Used: 234 MB\t"


def entry(role: Role = "worker", *, at: int = 0, lines: tuple[str, ...] = (), report: str = "", **note: Any) -> Entry:
    facts = {"run": "r", "request_id": f"id{at}", **note}
    return Entry(role, f"id{at}", at, [json.dumps(facts), *lines], facts, report)


class Runs:
    """A run whose log is different at every look; `states` are its states at these looks."""

    on = "local"

    def __init__(self, *looks: tuple[str, list[Entry]]) -> None:
        self._looks: Iterator[tuple[str, list[Entry]]] = iter(looks)
        self.since_s: list[float] = []

    def status(self) -> SimpleNamespace:
        state, self._entries = next(self._looks)
        return SimpleNamespace(state=state)

    def log(self, since_s: float) -> list[Entry]:
        self.since_s.append(since_s)
        return [entry for entry in self._entries if entry.started_at >= since_s * 1000]


def test_a_line_says_where_it_is_from() -> None:
    worker = entry(task="train", version=12, rank=3, leg=1, lines=("two\nlines",), report=REPORT)
    assert lines_of(worker) == [
        "worker r3 #12 | task train, version 12, rank 3, leg 1",
        "worker r3 #12 | two",
        "worker r3 #12 | lines",
        "worker r3 #12 | billed duration 7 ms; max memory used 234 MB",
    ]
    assert lines_of(entry("merge", round="valid-00000018", generation=0))[0].startswith("merge #18 | ")
    assert lines_of(entry("merge", round="", generation=0)) == ["merge | generation 0"]
    assert lines_of(entry("worker", task="prepare", rank=0)) == ["worker | task prepare, rank 0"]


def test_a_line_of_the_users_code_is_shown_as_it_is() -> None:
    printed = ('{"run": "mine", "traffic": 1}', '{"run": not JSON')
    assert [line.partition(" | ")[2] for line in lines_of(entry(task="prepare", rank=0, lines=printed))[1:]] == [
        *printed
    ]


def test_a_killed_invocation_shows_how_it_ended() -> None:
    killed = entry(task="train", version=0, rank=0, report=REPORT + "Status: timeout\t")
    assert lines_of(killed)[-1].endswith("status timeout")


def test_functions_and_ranks_are_chosen() -> None:
    worker = entry(rank=1, task="train", version=0)
    assert worker in Wanted(("worker", "merge"))
    assert worker in Wanted(("worker",), rank=1)
    assert worker not in Wanted(("worker",), rank=0)
    assert worker not in Wanted(("merge",))


def test_following_gives_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(words.LOOK_S, "local", 0.0)

    def growing(lines: tuple[str, ...], report: str = "") -> Entry:
        return entry(at=5000, task="train", version=0, rank=0, lines=lines, report=report)

    old = entry(at=1000, task="prepare", report=REPORT)
    run = Runs(
        ("running", [old, growing(("a",))]),
        ("running", [old, growing(("a", "b"))]),
        ("done", [old, growing(("a", "b", "c"), REPORT)]),
    )
    found = [line for lines in batches(run, Wanted(("worker",)), follow=True) for line in lines]  # type: ignore[arg-type]
    texts = [line.partition(" | ")[2] for line in found]
    assert [text for text in texts if text in "abc"] == ["a", "b", "c"]
    assert len(texts) == len(lines_of(old)) + len(lines_of(growing(("a", "b", "c"), REPORT)))
    assert run.since_s == [0.0, 5.0, 5.0], "invocations that have ended are read again"


def test_without_following_one_look_is_enough() -> None:
    run = Runs(("running", [entry(task="prepare")]))
    assert list(batches(run, Wanted(("worker",)))) == [["worker | task prepare"]]  # type: ignore[arg-type]
