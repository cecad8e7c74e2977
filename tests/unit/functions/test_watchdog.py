"""When the watchdog sets a run going again, what it sends for, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.driver import Relay, undisturbed
from core.events import Event
from core.specs import FUNCTIONS, spec_of
from core.stage import Stage
from estafeta import waiting
from estafeta.functions.watchdog import Note, digest_of, look
from estafeta.protocol.snapshot import Snapshot

PERIOD_S = 300.0


def looks(*seen: str, period_s: float = PERIOD_S, note: Note | None = None) -> tuple[Note, list[bool]]:
    """Looks one after the other, each acting if it is time to."""
    acted = []
    for number, digest in enumerate(seen):
        now = (number + 1) * period_s
        note, is_time = look(note, digest, now)
        if is_time:
            note = note.model_copy(update={"looks": 0, "calls": note.calls + 1, "called_at": now})
        acted.append(is_time)
    assert note is not None
    return note, acted


def test_the_first_look_only_remembers() -> None:
    note, acted = looks("a")
    assert acted == [False]
    assert note == Note(seen="a", since=PERIOD_S)


def test_a_run_that_gets_on_is_left_alone() -> None:
    note, acted = looks(*map(str, range(20)))
    assert not any(acted)
    assert len(note.stretches_s) == waiting.RECENT_STRETCHES


def test_a_run_that_stands_still_is_set_going_at_growing_intervals() -> None:
    _, acted = looks(*"aaaaaaaaaaaaaaaa")
    assert [number for number, did in enumerate(acted) if did] == [1, 3, 7, 15]


def test_getting_on_ends_the_count() -> None:
    note, acted = looks(*"aab")
    assert acted == [False, True, False]
    assert (note.looks, note.calls) == (0, 0)


def test_long_rounds_are_no_standstill() -> None:
    """Each takes four looks: after three of them that is known."""
    note, acted = looks(*"aaaabbbbccccdddd")
    assert not any(acted[12:])
    _, acted = looks(*"ddddddddd", note=note.model_copy(update={"since": 0.0, "called_at": 0.0}))
    assert any(acted), "but when it stands still for much longer, it is"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"reached": 3},
        {"ranks": frozenset({1})},
        {"legs": ((0, 1),)},
        {"residents": ((0, (0, 1)),)},
        {"left": frozenset({(0, 0)})},
        {"stop_requested": True},
    ],
    ids=str,
)
def test_all_that_gets_on_shows(changes: dict[str, Any]) -> None:
    assert digest_of(Snapshot(2, **changes)) != digest_of(Snapshot(2))


# Whole runs


def tend(relay: Relay) -> str:
    (done,) = relay.call("control", {"verb": "tend"})["tended"].values()
    return str(done)


def lost(which: Callable[[Event], bool], times: int = 1) -> Callable[[Event], tuple[int, ...]]:
    left = [times]

    def arrivals(event: Event) -> tuple[int, ...]:
        if left[0] and which(event):
            left[0] -= 1
            return ()
        return (0,)

    return arrivals


@pytest.mark.parametrize(
    "which",
    [
        lambda event: event.payload.get("task") == "prepare",
        lambda event: event.payload.get("task") == "train" and event.payload["version"] == 1,
        lambda event: event.payload.get("task") == "valid",
        lambda event: event.payload.get("round") == "train-00000002",
        lambda event: event.payload.get("round") == "valid-00000003",
    ],
    ids=["prepare", "train", "valid", "merge", "record"],
)
def test_an_event_that_was_lost_is_sent_again(which: Callable[[Event], bool], tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), arrivals=lost(which, times=2))
    relay.start()
    relay.drain()
    assert tend(relay) == "goes on"
    assert relay.queued() == [], "it may just have begun"
    while relay.control("status")["state"] in ("preparing", "running"):
        assert tend(relay) in ("goes on", "waits", "was set going again: 1 events", "was set going again: 2 events")
        relay.drain()
    assert relay.result() == undisturbed("plain")
    assert relay.call("control", {"verb": "tend"}) == {"tended": {}}
    assert relay.call("control", {"verb": "tend", "run": "r"}) == {"tended": {"r": "has ended"}}


@pytest.mark.parametrize("topology", ["sharded", "replicated"])
@pytest.mark.parametrize("leg", [0, 1])
def test_residents_that_all_got_lost_are_sent_for(leg: int, topology: str, tmp_path: Path) -> None:
    spec = spec_of("plain", topology=topology, rounds_per_invocation=2)
    stage = Stage(
        tmp_path,
        spec,
        arrivals=lost(
            lambda e: e.payload.get("leg") == leg and "rank" in e.payload and e.payload["task"] == "reside", times=2
        ),
    )
    stage.start()
    stage.drain()
    assert [tend(stage), tend(stage)] == ["goes on", "was set going again: 2 events"]
    stage.drain()
    assert stage.result() == undisturbed("plain")


def test_residents_that_may_be_alive_are_left_to_their_peers(tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", topology="sharded"), limit_s=600.0)
    stage.start()
    while len(stage.at_work) < 2 or stage.at_work[0].calls < 60:
        stage.step()
    stage.kill_all()
    assert [tend(stage) for _ in range(5)] == ["goes on", *["waits"] * 4]
    stage.now += 601.0
    assert tend(stage) == "was set going again: 2 events", "dead for sure"
    stage.drain()
    assert stage.result() == undisturbed("plain")


def test_a_run_that_does_not_move_fails_and_can_be_resumed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain"), arrivals=lost(lambda event: event.role == "worker", times=10**6))
    stage.start()
    done = []
    while not done or done[-1] != "was ended as failed":
        stage.now += PERIOD_S
        done.append(tend(stage))
        stage.drain()
    assert sum("set going" in what for what in done) == waiting.MOST_WATCHDOG_CALLS
    failure = stage.outcome().failure
    assert failure is not None
    assert failure.reason == "StoodStill"
    assert f"{waiting.MOST_WATCHDOG_CALLS} times" in failure.message
    assert failure.log_group == f"/aws/lambda/{FUNCTIONS['worker'].name}"
    stage._arrivals = lambda event: (0,)
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed("plain")


def test_no_run_keeps_another_from_being_looked_after(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), arrivals=lost(lambda event: event.role == "worker"))
    relay.start()
    damaged = tmp_path / "runs" / "damaged" / "run.json"
    damaged.parent.mkdir()
    damaged.write_text("{}")
    relay.call("control", {"verb": "tend"})
    tended = relay.call("control", {"verb": "tend"})["tended"]
    assert tended["damaged"].startswith("failed: ")
    assert tended["r"] == "was set going again: 1 events"
