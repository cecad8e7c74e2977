"""Lambda's failure records in words: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.driver import Relay, undisturbed
from core.events import Event, failure_record, in_order
from core.specs import FUNCTIONS, spec_of
from core.stage import Stage
from estafeta.functions.lost_events import explain, follow_up, is_due, is_failure_record, run_of
from estafeta.protocol.layout import Round
from estafeta.protocol.snapshot import Finish, Merge, Snapshot, Work
from estafeta.protocol.spec import MergeEvent, Role, WorkerEvent

from ..protocol.test_snapshot import ALL, at, plan_of, record

TRAIN = WorkerEvent(run="r", task="train", version=12, rank=3, leg=1)
PREPARE = WorkerEvent(run="r", task="prepare")
RESIDE = WorkerEvent(run="r", task="reside", rank=3, leg=2)
MERGE = MergeEvent(run="r", round="valid-00000004")


def record_of(event: WorkerEvent | MergeEvent, kind: str, text: str, **context: Any) -> dict[str, Any]:
    role: Role = "merge" if isinstance(event, MergeEvent) else "worker"
    record = failure_record(Event(role, event.model_dump(), "request-1", attempt=3), kind, text)
    record["requestContext"].update(context)
    return record


@pytest.mark.parametrize(
    ("kind", "text", "reason", "message", "hint", "exit_code"),
    [
        (
            "Runtime.OutOfMemory",
            "RequestId: 1 Error: Runtime exited with error: signal: killed",
            "OutOfMemory",
            "The worker function ran out of memory at its limit of 1769 MB",
            "-o worker.memory_mb=…",
            1,
        ),
        (
            "Runtime.ExitError",
            "RequestId: 1 Error: Runtime exited with error: signal: killed",
            "OutOfMemory",
            "ran out of memory",
            "micro_batch_size",
            1,
        ),
        ("MemoryError", "Unable to allocate 4.00 GiB", "OutOfMemory", "ran out of memory", "worker.memory_mb", 1),
        (
            "Sandbox.Timedout",
            "RequestId: 1 Error: Task timed out after 3.00 seconds",
            "Timeout",
            "The worker function was killed at its time limit of 900 s",
            "-o worker.timeout_s=…",
            1,
        ),
        ("Unhandled", "2026-01-01T00:00:00Z 1 Task timed out after 3.00 seconds", "Timeout", "limit", "timeout", 1),
        (
            "ConnectTimeoutError",
            "the request to example.org timed out",
            "ConnectTimeoutError",
            "ConnectTimeoutError: the request to example.org timed out, after 3 attempts",
            "log",
            1,
        ),
        (
            "Runtime.ImportModuleError",
            "Unable to import module: No module named 'torch'",
            "ImportModuleError",
            "No module named 'torch'",
            "install what is missing",
            3,
        ),
        ("OSError", "[Errno 28] No space left on device: 'x'", "DiskFull", "The store is full", "free some space", 3),
        ("OSError", "[Errno 122] Disk quota exceeded: 'x'", "DiskFull", "The store is full", "resume", 3),
        ("OSError", "x not found.", "OSError", "OSError: x not found, after 3 attempts", "log", 1),
        ("KeyError", "'w'", "KeyError", "KeyError: 'w', after 3 attempts", "log", 1),
        ("", "", "RetriesExhausted", "Lambda gave the event up (RetriesExhausted), after 3 attempts", "log", 1),
    ],
)
def test_a_record_tells_the_cause(kind: str, text: str, reason: str, message: str, hint: str, exit_code: int) -> None:
    failure = explain(record_of(TRAIN, kind, text), FUNCTIONS)
    assert failure.reason == reason
    assert message in failure.message
    assert hint in failure.hint
    assert failure.exit_code == exit_code


def test_a_loop_that_lambda_cut() -> None:
    record = record_of(MERGE, "", "", condition="RecursiveInvocationLoop")
    failure = explain(record, FUNCTIONS)
    assert failure.reason == "RecursiveLoop"
    assert "RecursiveLoop: Allow on the merge function" in failure.hint
    assert failure.exit_code == 3


@pytest.mark.parametrize(
    ("event", "where", "function", "rank", "round_"),
    [
        (TRAIN, "(estafeta-worker, rank 3, train round 12)", "estafeta-worker", 3, "train-00000012"),
        (RESIDE, "(estafeta-worker, rank 3, leg 2)", "estafeta-worker", 3, None),
        (PREPARE, "(estafeta-worker, preparing the run)", "estafeta-worker", None, None),
        (MERGE, "(estafeta-merge)", "estafeta-merge", None, "valid-00000004"),
        (MergeEvent(run="r"), "(estafeta-merge)", "estafeta-merge", None, None),
    ],
)
def test_a_record_tells_the_place(
    event: WorkerEvent | MergeEvent, where: str, function: str, rank: int | None, round_: str | None
) -> None:
    record = record_of(event, "KeyError", "'w'")
    record["responsePayload"]["stackTrace"] = ["  line one\n", "  line two\n"]
    failure = explain(record, FUNCTIONS)
    assert run_of(record) == "r"
    assert failure.message.endswith(where)
    assert (failure.function, failure.rank, failure.round) == (function, rank, round_)
    assert (failure.request_id, failure.log_group) == ("request-1", f"/aws/lambda/{function}")
    assert failure.traceback == "  line one\n  line two\n"


@pytest.mark.parametrize(("file", "hint"), [("/s/runs/r/code/job.py", "only Python modules"), ("/s/x.py", "log")])
def test_a_file_that_the_job_left_at_home(file: str, hint: str) -> None:
    record = record_of(PREPARE, "FileNotFoundError", "[Errno 2] No such file or directory: 'rows.csv'")
    record["responsePayload"]["stackTrace"] = [f'  File "{file}", line 6, in data\n', "    open('rows.csv')\n"]
    assert hint in explain(record, FUNCTIONS).hint


def test_an_event_that_was_never_answered() -> None:
    """One that grew too old, or that no concurrency was left for, has no response."""
    record = record_of(TRAIN, "", "", condition="EventAgeExceeded", approximateInvokeCount=0)
    del record["responsePayload"], record["responseContext"]
    failure = explain(record, FUNCTIONS)
    assert failure.reason == "EventAgeExceeded"
    assert failure.message.startswith("Lambda gave the event up (EventAgeExceeded), after 0 attempts")


@pytest.mark.parametrize("event", [None, [], {}, {"verb": "runs"}, {"requestContext": {}}])
def test_other_events_are_no_failure_records(event: Any) -> None:
    assert not is_failure_record(event)
    assert is_failure_record(record_of(TRAIN, "KeyError", ""))


# Whether the run fails for it

LAST_MERGE = MergeEvent(run="r", round="valid-00000008")
AT_12 = {"plan": plan_of(steps=100)}
RESIDENT = {"plan": plan_of(topology="sharded")}


@pytest.mark.parametrize(
    ("event", "snapshot", "due"),
    [
        (PREPARE, Snapshot(3), True),
        (PREPARE, at(0), False),
        (TRAIN.model_copy(update={"rank": 2}), at(12, legs=((2, 1),), **AT_12), True),
        (TRAIN.model_copy(update={"rank": 2}), at(12, legs=((2, 2),), **AT_12), False),
        (TRAIN.model_copy(update={"rank": 2}), at(12, ranks=frozenset({2}), **AT_12), False),
        (TRAIN.model_copy(update={"rank": 2}), at(13, **AT_12), False),
        (MERGE, at(4, ranks=ALL), True),
        (MERGE, at(4, last_epoch=record(1)), False),
        (MERGE, at(8, ranks=ALL, last_epoch=record(1)), False),
        (MERGE, at(8, last_epoch=record(2)), False),
        (LAST_MERGE, at(8, last_epoch=record(2)), True),
        (MergeEvent(run="r"), at(8, last_epoch=record(2)), True),
        (RESIDE.model_copy(update={"rank": 2}), at(4, **RESIDENT), True),
        (RESIDE.model_copy(update={"rank": 2}), at(4, residents=((2, (2, 0)),), **RESIDENT), True),
        (RESIDE.model_copy(update={"rank": 2}), at(4, residents=((2, (3, 0)),), **RESIDENT), False),
        (RESIDE.model_copy(update={"rank": 2}), at(4, left=frozenset({(2, 2)}), **RESIDENT), False),
        *[(event, at(4, outcome="stopped"), False) for event in (PREPARE, TRAIN, MERGE, RESIDE)],
    ],
)
def test_only_what_is_still_to_be_done_fails_the_run(event: Any, snapshot: Snapshot, due: bool) -> None:
    assert is_due(event.model_dump(), snapshot) == due


def test_events_that_may_be_lost_are_sent_again() -> None:
    done = TRAIN.model_copy(update={"rank": 2}).model_dump()
    assert follow_up(done, at(12, ranks=ALL, **AT_12)) == (Merge(Round(12, "train")),)
    assert follow_up(done, at(12, ranks=frozenset({2}), **AT_12)) == (), "the others are at it"
    assert follow_up(done, at(13, **AT_12)) == ()
    merged = MergeEvent(run="r", round="train-00000012").model_dump()
    works = tuple(Work(Round(13, "train"), rank) for rank in range(3))
    assert follow_up(merged, at(13, **AT_12)) == works, "it may have died before it invoked them"
    assert follow_up(merged, at(14, **AT_12)) == (), "the run has moved on"
    assert follow_up(LAST_MERGE.model_dump(), at(8, last_epoch=record(2))) == (Finish("done", "all epochs are done"),)
    assert len(follow_up(PREPARE.model_dump(), at(0))) == 3
    assert follow_up(RESIDE.model_dump(), at(4, **RESIDENT)) == ()


@pytest.mark.parametrize(
    "which",
    [lambda event: event.payload.get("task") == "train", lambda event: event.role == "merge"],
    ids=["worker", "merge"],
)
def test_a_record_that_comes_late_harms_nobody(which: Callable[[Event], bool], tmp_path: Path) -> None:
    """Of each event, the word that it was given up is delivered when it has been done."""
    relay = Relay(tmp_path, spec_of("plain"), arrivals=in_order)
    relay.start()
    while relay.step():
        for event in [event for event in relay.delivered if which(event)][-1:]:
            if not which(relay.delivered[-1]):
                relay.call("control", failure_record(event, "OSError", "late"))
    assert relay.result() == undisturbed("plain")


@pytest.mark.parametrize(
    ("lost", "given_up"),
    [
        (lambda event: event.role == "merge", lambda event: event.payload.get("task") == "train"),
        (
            lambda event: event.payload.get("task") == "train" and event.payload["version"] == 1,
            lambda event: event.role == "merge",
        ),
    ],
    ids=["the merge", "the workers"],
)
def test_events_after_one_that_was_given_up_are_sent(
    lost: Callable[[Event], bool], given_up: Callable[[Event], bool], tmp_path: Path
) -> None:
    """It had done what it was for, and died before it invoked who comes next, in all of its attempts."""
    relay = Relay(tmp_path, spec_of("plain"), arrivals=lambda event: () if lost(event) else (0,))
    relay.start()
    relay.drain()
    relay._arrivals = in_order
    event = next(event for event in reversed(relay.delivered) if given_up(event))
    relay.call("control", failure_record(event, "OSError", "in the end"))
    relay.drain()
    assert relay.result() == undisturbed("plain")


def with_rank_1_killed(tmp_path: Path) -> tuple[Stage, Event]:
    """A run of residents of which one was killed in the middle, and the event that it was invoked with."""
    stage = Stage(tmp_path, spec_of("plain", topology="sharded"))
    stage.start()
    while not any(actor.calls > 60 for actor in stage.at_work):
        stage.step()
    (actor,) = (actor for actor in stage.at_work if actor.event.payload["rank"] == 1)
    stage.kill(actor)
    return stage, actor.event


def test_a_record_of_a_replaced_resident_does_not_fail_the_run(tmp_path: Path) -> None:
    stage, event = with_rank_1_killed(tmp_path)
    while not any(event.payload.get("generation") == 1 for event in stage.delivered):
        stage.step()
    while not stage.store.exists(f"{stage.layout.legs}/rank-0001-00.g01"):
        stage.step()
    stage.call("control", failure_record(event, "OSError", "late"))
    stage.drain()
    assert stage.result() == undisturbed("plain")


def test_a_successor_of_a_resident_that_was_given_up_goes_on_at_once(tmp_path: Path) -> None:
    """Without that word the next leg waits until the claim of the one before has expired, after fifteen minutes."""
    stage = Stage(tmp_path, spec_of("plain", topology="sharded", workers=1, rounds_per_invocation=2))
    stage.start()
    while not stage.store.exists(stage.layout.ready(0, 1)):
        stage.step()
    first, _ = stage.at_work
    stage.kill(first)
    stage.call("control", failure_record(first.event, "OSError", "in the end"))
    stage.drain()
    assert stage.result() == undisturbed("plain", 1)
    assert stage.now < 60


def test_a_record_of_a_resident_that_was_not_replaced_fails_the_run(tmp_path: Path) -> None:
    stage, event = with_rank_1_killed(tmp_path)
    stage.call("control", failure_record(event, "OSError", "each time"))
    stage.drain()
    failure = stage.outcome().failure
    assert failure is not None
    assert (failure.reason, failure.rank) == ("OSError", 1)
